"""What the shadow comparison found out about an instrument, as the decision to move it needs it.

The report of shadow runs writes one file for each instrument that is shadowed, `<data_dir>/shadow/<id>.json`, with
:func:`write_evidence`; `tandem config cutover` and `tandem config status` read it with :func:`evidence`. `<id>` is the
instrument the experiment uses, not its shadow. The file is one JSON object:

```json
{
 "instrument": "power",
 "instrument_generation": "v2",
 "shadow": "power_shadow",
 "shadow_generation": "v4",
 "verdict": "equivalent",
 "reason": "",
 "n": 240,
 "needed": 200,
 "runs": ["59949a74-6f73-4e1d-a5f6-548671b439fc"],
 "time": 1773312000.0,
 "simulated": false,
 "signals": {
  "power": {"verdict": "equivalent", "reason": "", "n": 240, "needed": 200, "tolerance": 1e-06, "units": "W"}
 }
}
```

`n` of the instrument is that of the signal with the fewest pairs in proportion to what it needs. Keys that are not
known here are ignored, so that a report may say more than a decision needs.
"""

from __future__ import annotations

import json
import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, ValidationError

from coexistence.config import Generation

Verdict = Literal["equivalent", "different", "insufficient"]


class SignalEvidence(BaseModel):
    """What was found out about one signal."""

    model_config = ConfigDict(frozen=True)

    verdict: Verdict
    reason: str = ""
    """Why it is different, or what is missing; empty for an equivalent signal."""
    n: NonNegativeInt = 0
    """Pairs of readings that were compared."""
    needed: NonNegativeInt | None = None
    """Pairs the test needs for a verdict; None when nobody has estimated it."""
    tolerance: FiniteFloat | None = None
    """The largest difference that does not matter, stated by the user, in `units`."""
    units: str | None = None
    """Units of the tolerance; those of the signal."""


class Evidence(BaseModel):
    """What was found out about an instrument and its shadow in the other generation."""

    model_config = ConfigDict(frozen=True)

    instrument: str
    """Id of the instrument the experiment uses."""
    instrument_generation: Generation = "v2"
    shadow: str | None = None
    """Id of the instrument that shadowed it; None when nothing was compared."""
    shadow_generation: Generation = "v4"
    verdict: Verdict
    """The worst of its signals' verdicts: different, else insufficient, else equivalent."""
    reason: str = ""
    n: NonNegativeInt = 0
    needed: NonNegativeInt | None = None
    runs: tuple[str, ...] = ()
    """Uids of the runs the comparison is based on."""
    time: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """When the report was made, in s since 1970; None when there is none."""
    simulated: bool = False
    """Whether the runs were made on simulated instruments."""
    signals: dict[str, SignalEvidence] = Field(default_factory=dict)
    """By the name of the signal without the instrument's id: `power` of `power_power`; `""` for a column that has the
    id as its name."""

    @property
    def is_missing(self) -> bool:
        """Whether nothing was ever compared."""
        return self.time is None

    def __str__(self) -> str:
        """Return the verdict in a line: what, why, how much of it is there, since when."""
        if self.is_missing:
            return f"no evidence: {self.reason}"
        pairs = f"{self.n}" if self.needed is None else f"{self.n} of {self.needed}"
        words = {
            "equivalent": f"equivalent{self._within()} ({self.n} pairs)",
            "different": f"different because {self.reason} ({self.n} pairs)",
            "insufficient": f"insufficient evidence ({pairs} pairs)" + (f": {self.reason}" if self.reason else ""),
        }
        assert self.time is not None
        count = f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}"
        kind = ", simulated" if self.simulated else ""
        return f"{words[self.verdict]} in {count}{kind}, {datetime.fromtimestamp(self.time):%Y-%m-%d %H:%M}"

    def _within(self) -> str:
        """Return what was tolerated: without that the word says nothing."""
        stated = [
            f"{f'{name} ' if name else ''}within {signal.tolerance:.2g}{f' {signal.units}' if signal.units else ''}"
            for name, signal in self.signals.items()
            if signal.tolerance is not None
        ]
        return f": {', '.join(stated)}" if stated else ""


def evidence_path(data_dir: str | os.PathLike[str], instrument_id: str) -> Path:
    """Return the file with the evidence about an instrument."""
    return Path(data_dir) / "shadow" / f"{instrument_id}.json"


def evidence(data_dir: str | os.PathLike[str], instrument_id: str) -> Evidence:
    """Return what the shadow report says about an instrument.

    Parameters
    ----------
    data_dir
        The data directory of the sessions.
    instrument_id
        The instrument the experiment uses.

    Returns
    -------
    Evidence
        `insufficient` with the reason when there is no report, or when it cannot be read.
    """
    path = evidence_path(data_dir, instrument_id)
    try:
        found = Evidence.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return _none(instrument_id, "no shadow run of it was compared")
    except OSError as error:
        return _none(instrument_id, f"{path} cannot be read ({error.strerror})")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        return _none(instrument_id, f"{path} is damaged ({where + ': ' if where else ''}{first['msg']}); report again")
    if found.instrument != instrument_id:
        return _none(instrument_id, f"{path} is about {found.instrument!r}")
    return found


def write_evidence(data_dir: str | os.PathLike[str], found: Evidence) -> Path:
    """Store the evidence about an instrument in place of the older one; a reader sees either.

    Raises
    ------
    OSError
        The data directory cannot be written; the older evidence stands.
    """
    path = evidence_path(data_dir, found.instrument)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found.model_dump(mode="json"), indent=1)
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise
    return path


def _none(instrument_id: str, reason: str) -> Evidence:
    return Evidence(instrument=instrument_id, verdict="insufficient", reason=reason)
