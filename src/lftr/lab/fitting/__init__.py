"""Fitting the trainable parts of methods to the answers of a frozen model."""
