"""Token merging inside the vision encoder."""

__all__: list[str] = []  # its classes are names of lftr
