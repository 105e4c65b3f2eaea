"""What an answer is worth, and what many answers say: metrics, intervals, hallucination."""
