"""Plans of the project: `from plans import malus`."""

from plans.malus import MalusFit, fit_malus, malus, malus_law

__all__ = ["MalusFit", "fit_malus", "malus", "malus_law"]
