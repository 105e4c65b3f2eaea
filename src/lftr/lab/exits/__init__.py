"""Layers after which a model no longer needs the image, by calibration or by trained gates."""
