"""What a conversion did, instrument by instrument."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from coexistence.errors import CoexistenceError

Outcome = Literal["converted", "converted with a remark", "needs a hand"]
OldForm = Literal["flat", "sections"]


class ConversionRefused(CoexistenceError):
    """A file cannot be converted, and nothing was written."""

    def __init__(self, path: str, reason: str, remedy: str) -> None:
        self.path = path
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"{path} was not converted: {reason}. {remedy}")


@dataclass
class Converted:
    """What became of one instrument of the old file."""

    old_id: str
    old_type: str
    new_ids: tuple[str, ...] = ()
    """Ids in the new file, the first part of their columns; empty when it needs a hand."""
    new_type: str = ""
    remarks: list[str] = field(default_factory=list)
    """What was decided, corrected or left out, each with what to do when that is not wanted."""
    reason: str = ""
    """Why it needs a hand, and what to do; empty when it was converted."""

    @property
    def outcome(self) -> Outcome:
        """How much of it the user has to look at."""
        if self.reason:
            return "needs a hand"
        return "converted with a remark" if self.remarks else "converted"

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "old_id": self.old_id,
            "old_type": self.old_type,
            "new_ids": list(self.new_ids),
            "new_type": self.new_type,
            "outcome": self.outcome,
            "remarks": self.remarks,
            "reason": self.reason,
        }


@dataclass
class Conversion:
    """A converted file."""

    text: str
    """The new file; `tandem config check` finds nothing wrong with it."""
    form: OldForm
    """What the old file was: flat, or already with the sections `[v2]` and `[v4]`."""
    instruments: list[Converted]
    notes: list[str] = field(default_factory=list)
    """What was done with the rest of the file."""

    @property
    def without_a_hand(self) -> int:
        """How many instruments are in the new file without anybody's help."""
        return sum(instrument.outcome != "needs a hand" for instrument in self.instruments)

    def as_json(self) -> dict[str, Any]:
        """Return what was done as plain data, without the text."""
        return {
            "form": self.form,
            "total": len(self.instruments),
            "without_a_hand": self.without_a_hand,
            "instruments": [instrument.as_json() for instrument in self.instruments],
            "notes": self.notes,
        }
