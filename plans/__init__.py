"""Plans of the project: `from plans import malus`."""

from plans.checks import Arguments, PlanArgumentError, PlanError
from plans.laser_safe import laser_safe
from plans.malus import MalusFit, fit_malus, malus, malus_law
from plans.normalised import normalised
from plans.results import Result, record_results, with_results
from plans.with_dark import with_dark

__all__ = [
    "Arguments",
    "MalusFit",
    "PlanArgumentError",
    "PlanError",
    "Result",
    "fit_malus",
    "laser_safe",
    "malus",
    "malus_law",
    "normalised",
    "record_results",
    "with_dark",
    "with_results",
]
