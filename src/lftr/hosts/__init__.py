"""Hosts find the visual tokens in a model and apply selections; they know no method."""
