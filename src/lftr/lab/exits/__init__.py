"""Where the image is no longer needed: layers found by calibration, gates trained for it."""
