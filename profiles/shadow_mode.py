"""Instruments with `shadow_of` in the configuration measure beside every plan of a session."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bluesky.utils import Msg, ensure_generator

from coexistence.config import DualConfig
from plans.shadow import CannotShadow, ShadowPair, shadowed

logger = logging.getLogger("profiles.shadow")


class ShadowMode:
    """Wraps every plan in :func:`plans.shadowed` with the pairs of the configuration; for `RE.preprocessors`.

    A pair takes part while both instruments are connected: one that connects later joins with the next plan. What
    cannot be compared is told once.

    Parameters
    ----------
    config
        Says which instrument is the shadow of which, and what share of a run's time that may cost.
    devices
        Connected devices by id.
    tell
        Is given a line for the user.
    """

    def __init__(
        self, config: DualConfig, devices: Mapping[str, Any], tell: Callable[[str], None] = logger.warning
    ) -> None:
        self._originals = {
            instrument.id: instrument.shadow_of
            for _, instrument in config.instruments()
            if instrument.shadow_of is not None
        }
        self._budget = config.application.shadow_budget
        self._devices = devices
        self._tell = tell
        self._refused: set[str] = set()

    def pairs(self) -> list[ShadowPair]:
        """Return the pairs that can be compared now."""
        found = []
        for twin, original in self._originals.items():
            if twin in self._refused or twin not in self._devices or original not in self._devices:
                continue
            try:
                found.append(ShadowPair(self._devices[original], self._devices[twin]))
            except CannotShadow as refusal:
                self._refused.add(twin)
                self._tell(str(refusal))
        return found

    def __call__(self, plan: Iterable[Msg]) -> Any:
        """Return the plan with its shadow."""
        return shadowed(ensure_generator(plan), self.pairs(), budget=self._budget)
