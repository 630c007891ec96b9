"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["ok", "note", "warning", "problem"]
"""A warning may matter one day, a problem keeps something from working now."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `remedy` says what to do unless all is well."""

    subject: str
    outcome: Outcome
    found: str
    remedy: str = ""
