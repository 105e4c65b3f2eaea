"""Reduction inside the language model: the columns that each decoder layer works on and caches."""
