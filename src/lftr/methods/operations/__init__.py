"""Functions that methods share, one concept a file. They take stacks, each row decided on its own.

Values are computed in float32, ties go to the earlier token, and results do not depend on the other
items of a batch.
"""

__all__: list[str] = []  # each function is imported from its file
