"""Plans of the project, what they find, and what can be put around them: `from plans import scan, laser_safe`."""

from plans.catalogue import CATALOGUE
from plans.checks import Arguments, PlanArgumentError, PlanError
from plans.drift import Drift, allan_deviation, analyse_drift
from plans.fly import fly_scan
from plans.laser_safe import laser_safe
from plans.malus import MalusFit, fit_malus, malus, malus_law
from plans.normalised import ColumnMissing, normalised
from plans.optics import (
    calibrate_half_wave_plate,
    delay_scan,
    image_scan,
    power_hold,
    rotational_anisotropy,
    wavelength_scan,
)
from plans.peak import Peak, fit_peak
from plans.repetition import interleave, repeat
from plans.results import Result, RunEvents, record_results, with_results
from plans.scans import adaptive_scan, grid_scan, list_scan, nd_scan, scan, time_series
from plans.shadow import ShadowPair, shadowed
from plans.shutter import LimitExceeded, ShutterClosed, ShutterNotClosed
from plans.tune import NoPeak, tune
from plans.with_dark import with_dark

__all__ = [
    "CATALOGUE",
    "Arguments",
    "ColumnMissing",
    "Drift",
    "LimitExceeded",
    "MalusFit",
    "NoPeak",
    "Peak",
    "PlanArgumentError",
    "PlanError",
    "Result",
    "RunEvents",
    "ShadowPair",
    "ShutterClosed",
    "ShutterNotClosed",
    "adaptive_scan",
    "allan_deviation",
    "analyse_drift",
    "calibrate_half_wave_plate",
    "delay_scan",
    "fit_malus",
    "fit_peak",
    "fly_scan",
    "grid_scan",
    "image_scan",
    "interleave",
    "laser_safe",
    "list_scan",
    "malus",
    "malus_law",
    "nd_scan",
    "normalised",
    "power_hold",
    "record_results",
    "repeat",
    "rotational_anisotropy",
    "scan",
    "shadowed",
    "time_series",
    "tune",
    "wavelength_scan",
    "with_dark",
    "with_results",
]
