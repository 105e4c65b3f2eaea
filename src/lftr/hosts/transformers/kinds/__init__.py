"""One file for each way in which images reach a language model, and for any module."""
