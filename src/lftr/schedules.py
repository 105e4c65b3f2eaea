"""How many visual tokens each decoder layer has: the names of `lftr.methods.inside.schedules`."""

from .methods.inside.schedules import *  # noqa: F403
from .methods.inside.schedules import __all__ as __all__
