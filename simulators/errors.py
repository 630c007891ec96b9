"""Errors of the simulators."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SimulatorError(Exception):
    """A simulator did not start, refused a request, or has gone."""


class SpecError(SimulatorError, ValueError):
    """A specification asks for something the simulators do not have.

    Attributes:
        name: what was asked for.
        known: what could have been asked for instead.
    """

    def __init__(self, what: str, name: str = "", known: Iterable[str] = ()) -> None:
        self.name = name
        self.known = tuple(known)
        message = f"{what} {name!r}" if name else what
        close = difflib.get_close_matches(name, self.known, n=1)
        if close:
            message += f"; did you mean {close[0]!r}?"
        elif self.known:
            message += f"; known: {', '.join(self.known)}"
        super().__init__(message)
