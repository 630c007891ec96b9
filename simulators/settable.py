"""What a test may change while a simulation runs."""

from __future__ import annotations

import math
from typing import ClassVar

from .errors import SpecError


class Settable:
    """Something with numbers that a hand on the bench could change; `settable` names them."""

    name: str
    settable: ClassVar[frozenset[str]] = frozenset()

    def set_state(self, **values: float) -> None:
        """Change all of these, or none.

        Raises:
            SpecError: one of them cannot be set, or is not a finite number.
        """
        for key, value in values.items():
            if key not in self.settable:
                raise SpecError(f"{self.name} has no settable", key, sorted(self.settable))
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise SpecError(f"{key} of {self.name} cannot be {value!r}")
        for key, value in values.items():
            setattr(self, key, float(value))
