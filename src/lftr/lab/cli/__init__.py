"""The commands that compare: ``eval``, ``embeddings``, ``tune``, ``bench``, ``demo``, ``web``..."""
