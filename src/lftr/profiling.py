"""What a reduction costs and saves: the public names of `lftr.lab.profiling`."""

from .lab.profiling import *  # noqa: F403
from .lab.profiling import __all__ as __all__
