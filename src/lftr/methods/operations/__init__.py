"""The primitives that methods share, one concept a file; all take stacks and never mix their rows.

Everything is computed in float32, ties go to the earlier token, and results do not depend on the
batch-mates.
"""
