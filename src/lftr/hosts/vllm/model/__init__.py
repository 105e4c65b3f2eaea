"""After vLLM's encoder: evidence, the choice, and the positions of what was chosen."""
