"""What corrects the next token's logits while an answer is generated."""
