"""The smallest budget that keeps the answers: the public names of `lftr.lab.tuning`."""

from .lab.tuning.plan import Plan
from .lab.tuning.search import Goal
from .lab.tuning.tune import Tuned, tune
from .lab.tuning.workload import Workload, load_workload

__all__ = ["Goal", "Plan", "Tuned", "Workload", "load_workload", "tune"]
