"""Plans of an optics bench: wave plates, anisotropy, wavelength, delay, images, and holding a power."""

from plans.optics.anisotropy import AnisotropyFit, fit_anisotropy, rotational_anisotropy
from plans.optics.delay import delay_ps, delay_scan, position_mm
from plans.optics.half_wave_plate import calibrate_half_wave_plate, fit_half_wave_plate
from plans.optics.harmonics import CosineSquared, HarmonicFit, fit_harmonics
from plans.optics.imaging import image_scan
from plans.optics.power_hold import PowerOutOfReach, power_hold
from plans.optics.wavelength import wavelength_scan

__all__ = [
    "AnisotropyFit",
    "CosineSquared",
    "HarmonicFit",
    "PowerOutOfReach",
    "calibrate_half_wave_plate",
    "delay_ps",
    "delay_scan",
    "fit_anisotropy",
    "fit_half_wave_plate",
    "fit_harmonics",
    "image_scan",
    "position_mm",
    "power_hold",
    "rotational_anisotropy",
    "wavelength_scan",
]
