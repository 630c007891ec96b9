"""What is still v2, and what is known about its way to v4: `tandem config status`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from coexistence.config import DualConfig, InstrumentConfig
from coexistence.migration.cutover import twin_of
from coexistence.migration.evidence import Evidence, evidence
from profiles.configuration import find_configuration
from profiles.migration import data_directory, load_files
from profiles.v2_reminder import has_v4_type


@dataclass(frozen=True)
class Remaining:
    """One instrument in use and its way to v4."""

    id: str
    type: str
    generation: str
    shadow: str | None
    """Its twin in the other generation."""
    evidence: Evidence
    migrated: dict[str, Any] | None
    """When it changed generation last."""
    removal_date: date | None
    days_left: int | None
    """Until the removal date; negative when it has passed."""
    next_step: str

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        plain = {**asdict(self), "evidence": self.evidence.model_dump(mode="json")}
        return {**plain, "removal_date": self.removal_date and self.removal_date.isoformat()}


def run_status(files: Sequence[str], *, data_dir: Path | None, json_output: bool) -> int:
    """Print what is still v2, with its evidence and removal date; return 0, or 1 when a removal date has passed.

    Raises
    ------
    ConfigError
        With all problems of the configuration.
    """
    paths = [find_configuration(file) for file in files]
    config = load_files(paths)
    found = list(migration_status(config, data_directory(config, data_dir)))
    left = [one for one in found if one.generation == "v2"]
    if json_output:
        print(json.dumps({"v2": len(left), "v4": len(found) - len(left), "instruments": [o.as_json() for o in found]}))
    else:
        _print(found, left)
    return 1 if any(one.days_left is not None and one.days_left < 0 for one in left) else 0


def migration_status(config: DualConfig, data_dir: Path, *, today: date | None = None) -> Iterator[Remaining]:
    """Yield every instrument that is no shadow, with what is known about its way from v2 to v4."""
    files = " ".join(str(path) for path in config.files)
    for generation in ("v2", "v4"):
        for instrument in config.v2.instruments if generation == "v2" else config.v4.instruments:
            if instrument.shadow_of is not None:
                continue
            twin = twin_of(config, instrument.id)
            found = evidence(data_dir, instrument.id)
            removal = instrument.removal_date
            yield Remaining(
                instrument.id,
                instrument.type,
                generation,
                twin.id if twin is not None else None,
                found,
                instrument.migrated.model_dump(mode="json", by_alias=True) if instrument.migrated else None,
                removal,
                (removal - (today or date.today())).days if removal is not None else None,
                _next_step(instrument, twin, found, files) if generation == "v2" else "",
            )


def _next_step(instrument: InstrumentConfig, twin: InstrumentConfig | None, found: Evidence, files: str) -> str:
    if twin is None and not has_v4_type(instrument):
        return f'add a v4 instrument with shadow_of = "{instrument.id}"'
    if twin is None:
        return f"tandem config migrate --to v2 --shadows {files}"
    if not twin.enabled:
        return f"enable {twin.id}"
    if found.verdict == "equivalent" and found.simulated:
        return f"measure with {twin.id} beside it on the real instrument, then tandem shadow report"
    if found.verdict == "equivalent":
        return f"tandem config cutover {instrument.id} {files}"
    if found.verdict == "different":
        return "mend the difference, then compare again"
    return f"measure with {twin.id} beside it, then tandem shadow report"


def _print(found: Sequence[Remaining], left: Sequence[Remaining]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for one in left:
        shadow = f"shadowed by {one.shadow}" if one.shadow else "no shadow"
        console.print(f"[bold]{one.id}[/] is still v2: {one.type}, {shadow}, {_removal(one)}")
        console.print(f"  {one.evidence}", markup=False)
        console.print(f"  next: {one.next_step}", markup=False)
    for one in found:
        if one.generation == "v4" and one.migrated is not None:
            back = f", shadowed by {one.shadow}" if one.shadow else ""
            console.print(f"{one.id} is v4 since {one.migrated['on']} (evidence: {one.migrated['evidence']}){back}")
    console.print(f"{len(left)} of {len(found)} instruments are still v2")


def _removal(one: Remaining) -> str:
    if one.removal_date is None or one.days_left is None:
        return "no removal date"
    when = f"in {one.days_left} days" if one.days_left > 0 else "today" if one.days_left == 0 else "which has passed"
    return f"to be gone by {one.removal_date:%Y-%m-%d}, {when}"
