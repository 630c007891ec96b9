"""The optical bench all simulated instruments look at: source, wave plates, polarizers, stage, detectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import SpecError
from .settable import Settable

SPEED_OF_LIGHT_MM_PER_FS = 2.99792458e-4


@dataclass
class RotatingOptic:
    """A half-wave plate or a linear polarizer in a rotator.

    The optic's axis stands at `angle - angle_offset_deg` from the laser's reference plane, `angle` being what
    its rotator calls its position.
    """

    name: str
    kind: str
    """`polarizer` or `half_wave_plate`."""
    angle_offset_deg: float = 0.0
    transmission: float = 1.0
    """Largest transmitted fraction of the power."""
    extinction: float = math.inf
    """A polarizer's ratio of largest to smallest transmission."""
    position_deg: Callable[[], float] = float
    """Where the rotator stands now; 0 while no rotator carries the optic."""

    def __post_init__(self) -> None:
        if self.kind not in ("polarizer", "half_wave_plate"):
            raise SpecError("unknown optic", self.kind, ("polarizer", "half_wave_plate"))
        if not self.extinction > 1:
            raise SpecError(f"extinction of {self.name!r} must exceed 1")

    @property
    def axis_deg(self) -> float:
        """Where the optical axis stands now."""
        return self.position_deg() - self.angle_offset_deg

    def apply(self, field: tuple[float, float]) -> tuple[float, float]:
        """Send a linearly polarized field (x, y) through the optic."""
        angle = math.radians(self.axis_deg)
        cosine, sine = math.cos(angle), math.sin(angle)
        along = field[0] * cosine + field[1] * sine
        across = field[1] * cosine - field[0] * sine
        amplitude = math.sqrt(self.transmission)
        along *= amplitude
        across *= -amplitude if self.kind == "half_wave_plate" else amplitude / math.sqrt(self.extinction)
        return along * cosine - across * sine, along * sine + across * cosine


DEFAULT_OPTICS: tuple[dict[str, Any], ...] = (
    {"name": "half_wave_plate", "kind": "half_wave_plate"},
    {"name": "polarizer", "kind": "polarizer", "angle_offset_deg": 12.7, "transmission": 0.95, "extinction": 500},
)
"""In the order of the beam. With the wave plate at 0 the power peaks where the polarizer's rotator says 12.7."""


class OpticalBench(Settable):
    """Laser, rotating optics, delay stage, and the power and place of the beam at the detectors.

    A rotator, stage or laser that is simulated binds itself to its part; without one the part stands still.

    Args:
        power_w: power of the fixed laser, used while no simulated laser is bound.
        wavelength_nm: its wavelength.
        polarization_deg: plane of the laser's linear polarization.
        optics: the rotating optics in the order of the beam, as keyword arguments of `RotatingOptic`.
        attenuation: fraction of a simulated laser's power that is sent over the bench.
        ambient_w: light that reaches the meters past the beam.
        overlap_mm: stage position of zero delay between pump and probe.
        overlap_width_mm: standard deviation of the overlap along the stage.
        overlap_depth: relative change of the power at full overlap.
    """

    name = "bench"
    settable = frozenset(
        ("power_w", "wavelength_nm", "polarization_deg", "attenuation", "ambient_w", "overlap_mm", "overlap_depth")
    )

    def __init__(
        self,
        *,
        power_w: float = 1.06e-3,
        wavelength_nm: float = 800.0,
        polarization_deg: float = 0.0,
        optics: Sequence[dict[str, Any]] = DEFAULT_OPTICS,
        attenuation: float = 1 / 3000,
        ambient_w: float = 0.0,
        overlap_mm: float = 12.5,
        overlap_width_mm: float = 0.05,
        overlap_depth: float = 0.3,
    ) -> None:
        self.power_w = power_w
        self.wavelength_nm = wavelength_nm
        self.polarization_deg = polarization_deg
        self.attenuation = attenuation
        self.ambient_w = ambient_w
        self.overlap_mm = overlap_mm
        self.overlap_width_mm = overlap_width_mm
        self.overlap_depth = overlap_depth
        self.optics = {optic["name"]: RotatingOptic(**optic) for optic in optics}
        self._laser: Callable[[], tuple[float, float]] | None = None
        self._delay_stage_mm: Callable[[], float] | None = None

    def bind_rotator(self, optic: str, position_deg: Callable[[], float]) -> None:
        """Let a rotator carry the optic of that name."""
        if optic not in self.optics:
            raise SpecError("the bench has no optic", optic, self.optics)
        self.optics[optic].position_deg = position_deg

    def bind_laser(self, emission: Callable[[], tuple[float, float]]) -> None:
        """Let a laser feed the bench: `emission()` gives power in W and wavelength in nm."""
        self._laser = emission

    def bind_delay_stage(self, position_mm: Callable[[], float]) -> None:
        """Let a stage delay the pump."""
        self._delay_stage_mm = position_mm

    def source(self) -> tuple[float, float]:
        """Power in W and wavelength in nm where the beam enters the bench."""
        if self._laser is None:
            return self.power_w, self.wavelength_nm
        power_w, wavelength_nm = self._laser()
        return power_w * self.attenuation, wavelength_nm

    def power(self) -> float:
        """Power on the detectors now, in W."""
        return self._beam_power() + self.ambient_w

    def wavelength(self) -> float:
        """Wavelength of the beam now, in nm."""
        return self.source()[1]

    def truth(self) -> dict[str, Any]:
        """Tell the power now, and what a perfect fit of Malus's law over the last polarizer would find.

        `angle_deg` is the rotator position of largest power (0 to 180), `amplitude_w` and `offset_w` belong to
        `amplitude * cos(position - angle)**2 + offset`, all with everything else on the bench as it stands.
        """
        power_w, wavelength_nm = self.source()
        result: dict[str, Any] = {
            "power_w": self.power(),
            "wavelength_nm": wavelength_nm,
            "source_power_w": power_w,
            "ambient_w": self.ambient_w,
            "optics": {optic.name: optic.position_deg() for optic in self.optics.values()},
        }
        if self._delay_stage_mm is not None:
            result["delay_fs"] = 2 * (self._delay_stage_mm() - self.overlap_mm) / SPEED_OF_LIGHT_MM_PER_FS
        polarizers = [optic for optic in self.optics.values() if optic.kind == "polarizer"]
        if polarizers:
            result.update(self._malus(polarizers[-1]))
        return result

    def _malus(self, polarizer: RotatingOptic) -> dict[str, float]:
        held = polarizer.position_deg

        def power_at(position_deg: float) -> float:
            polarizer.position_deg = lambda: position_deg
            return self.power()

        try:
            at_0, at_45, at_90 = power_at(0.0), power_at(45.0), power_at(90.0)
        finally:
            polarizer.position_deg = held
        mean = (at_0 + at_90) / 2
        cosine, sine = (at_0 - at_90) / 2, at_45 - mean
        half = math.hypot(cosine, sine)
        smallest = mean - half
        return {
            # Twice: the remainder of a tiny negative angle is rounded to 180.
            "angle_deg": math.degrees(math.atan2(sine, cosine)) / 2 % 180 % 180,
            "amplitude_w": 2 * half,
            "offset_w": smallest,
            "contrast": (mean + half) / smallest if smallest > 0 else math.inf,
        }

    def _beam_power(self) -> float:
        power_w, _ = self.source()
        angle = math.radians(self.polarization_deg)
        field = (math.cos(angle), math.sin(angle))
        for optic in self.optics.values():
            field = optic.apply(field)
        return power_w * (field[0] ** 2 + field[1] ** 2) * self._overlap_factor()

    def _overlap_factor(self) -> float:
        if self._delay_stage_mm is None:
            return 1.0
        distance = (self._delay_stage_mm() - self.overlap_mm) / self.overlap_width_mm
        return 1.0 + self.overlap_depth * math.exp(-(distance**2) / 2)
