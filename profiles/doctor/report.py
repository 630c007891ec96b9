"""All checks together, printed for people or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from coexistence.config import DualConfig
from coexistence.errors import ConfigError
from profiles.configuration import load_configuration
from profiles.console import say
from profiles.data_directory import DEFAULT_DATA_DIRECTORY
from profiles.doctor.environment import environment_checks
from profiles.doctor.findings import Check, Outcome
from profiles.doctor.ports import port_checks, visa_checks
from profiles.doctor.records import record_checks, session_checks

_SHOWN: dict[Outcome, str] = {"ok": "ok", "note": "note", "warning": "WARNING", "problem": "PROBLEM"}


def run_doctor(config: str | None, *, data_dir: Path | None, json_output: bool) -> int:
    """Check everything, print what was found; return 0 unless something is a problem.

    Nothing is opened, asked, started or changed.

    Parameters
    ----------
    config
        A configuration whose ports, backend and data directory are to be looked at.
    data_dir
        Where runs are kept; else as configured, else `./tandem-data`.
    json_output
        Print one JSON object instead of lines.
    """
    found = list(examine(config, data_dir))
    problems = [check for check in found if check.outcome == "problem"]
    if json_output:
        print(json.dumps({"ok": not problems, "checks": [asdict(check) for check in found]}))
    else:
        _print(found)
    return 1 if problems else 0


def examine(config: str | None, data_dir: Path | None = None) -> Iterator[Check]:
    """Yield every check in the order of the report."""
    yield from environment_checks()
    chosen: DualConfig | None = None
    if config is not None:
        try:
            chosen = load_configuration(config)
        except ConfigError as error:
            for problem in error.problems:
                yield Check(f"configuration {problem.location}", "problem", problem.message, problem.suggestion)
        else:
            yield Check(
                f"configuration {config}", "ok", f"nothing is wrong; {len(list(chosen.instruments()))} instruments"
            )
    yield from port_checks(chosen)
    yield from visa_checks(chosen)
    configured = chosen.catalog_directory if chosen is not None else None
    yield from record_checks((data_dir or configured or DEFAULT_DATA_DIRECTORY).expanduser().resolve())
    yield from session_checks()


def _print(checks: list[Check]) -> None:
    console = Console()
    width = max(len(check.subject) for check in checks)
    for check in checks:
        say(console, f"{_SHOWN[check.outcome]:<8} {check.subject:<{width}}  {check.found}")
        if check.remedy and check.outcome != "ok":
            say(console, f"{'':<{width + 11}}{check.remedy}")
    number = sum(check.outcome == "problem" for check in checks)
    say(
        console,
        f"{number} of these keep something from working." if number else "Nothing keeps a session from working.",
    )
