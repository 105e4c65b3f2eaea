"""Comparing methods: the public names of `lftr.lab.evaluation`."""

from .lab.evaluation import *  # noqa: F403
from .lab.evaluation import __all__ as __all__
