"""Research code of several structures, in torch alone."""
