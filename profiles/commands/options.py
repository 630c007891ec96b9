"""Options that several commands share, and how a command ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer

from profiles.data_directory import DEFAULT_DATA_DIRECTORY

# typer evaluates annotations at run time and wants Optional for an option without a default.
Configurations = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--config",
        "-c",
        help="TOML file, or the name of a profile that comes with the project: sim, lab. May be given several times: "
        "later ones go over earlier ones. Without it the profile sim, which is simulated.",
        show_default=False,
    ),
]
Simulate = Annotated[bool, typer.Option("--simulate", "-s", help="Put simulated instruments in place of all wires.")]
DataDirectory = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--data-dir", "-d", help="Where runs are kept. Default: as configured, else ./tandem-data."),
]


def _as_configured(given: Path) -> Path:
    if given.suffix != ".toml" or given.is_dir():
        return given
    from coexistence.config import DualConfig

    return DualConfig.load(given).catalog_directory or DEFAULT_DATA_DIRECTORY


PastRuns = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        "-d",
        help="Where runs are kept, or the configuration that says so: a .toml file.",
        envvar="TANDEM__CATALOG__DIRECTORY",
        callback=_as_configured,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line, everything else to stderr.")
]
OneJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, in a line of its own.")]
OfSession = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--session", "-s", help="Only the session of this process id, or of this name. Default: all."),
]
OfDataDirectory = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--data-dir", "-d", help="Only sessions whose runs are kept there."),
]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Look again and again until Ctrl-C.")]
Every = Annotated[float, typer.Option("--every", help="Seconds between two looks when watching.", min=0.05)]


def finish(work: Callable[[], int]) -> NoReturn:
    """Do the work of a command and end with its exit code; with 130, as shells expect, after Ctrl-C."""
    try:
        exit_code = work()
    except KeyboardInterrupt:
        exit_code = 130
    raise typer.Exit(exit_code)
