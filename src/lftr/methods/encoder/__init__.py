"""Token merging inside the vision encoder."""
