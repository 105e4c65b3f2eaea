"""The commands of the lab: ``eval``, ``tune``, ``bench``, ``demo`` and ``report``."""
