"""One kind of host for each way in which images reach a language model."""
