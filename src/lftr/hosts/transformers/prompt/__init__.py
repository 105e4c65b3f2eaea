"""A prompt that gets shorter: its columns, turns, text, and everything aligned with them."""
