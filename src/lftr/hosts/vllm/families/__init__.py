"""A file for each group of architectures that vLLM serves reduced."""
