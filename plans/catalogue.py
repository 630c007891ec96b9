"""The plans that can be run by name: from the command line, at the prompt, in a queue server."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from plans import optics, scans
from plans.fly import fly_scan
from plans.malus import malus
from plans.tune import tune


@dataclass(frozen=True)
class CataloguedPlan:
    """A plan with a name."""

    function: Callable[..., Any]
    options: Mapping[str, str] = field(default_factory=dict)
    """What an argument is called on the command line, where that is not its own name."""

    usual: Mapping[str, str] = field(default_factory=dict)
    """Devices that the command line takes for arguments that are not given, if the bench has them."""

    @property
    def name(self) -> str:
        """The plan's name, which is also that of its runs."""
        return self.function.__name__

    @property
    def summary(self) -> str:
        """What the plan does, in a sentence."""
        return (inspect.getdoc(self.function) or "").partition("\n\n")[0].replace("\n", " ")


CATALOGUE: dict[str, CataloguedPlan] = {
    plan.name: plan
    for plan in (
        CataloguedPlan(scans.scan),
        CataloguedPlan(scans.nd_scan),
        CataloguedPlan(scans.list_scan),
        CataloguedPlan(scans.grid_scan),
        CataloguedPlan(scans.time_series),
        CataloguedPlan(scans.adaptive_scan),
        CataloguedPlan(tune),
        CataloguedPlan(malus, {"detectors": "power"}, {"detectors": "power", "rotator": "polarizer"}),
        CataloguedPlan(optics.calibrate_half_wave_plate, usual={"rotator": "hwp"}),
        CataloguedPlan(optics.rotational_anisotropy, usual={"polariser": "hwp", "analyser": "polarizer"}),
        CataloguedPlan(optics.wavelength_scan, usual={"laser": "laser"}),
        CataloguedPlan(optics.delay_scan),
        CataloguedPlan(optics.image_scan, usual={"camera": "camera"}),
        CataloguedPlan(optics.power_hold),
        CataloguedPlan(fly_scan),
    )
}
