"""Procedural visual question answering: the public names of `lftr.lab.suites`."""

from .lab.suites import *  # noqa: F403
from .lab.suites import __all__ as __all__
from .lab.suites import __getattr__ as __getattr__
