"""`tandem config migrate`, `cutover`, `rollback`: what they print, ask and write."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coexistence.config import DualConfig, Generation
from coexistence.errors import CoexistenceError
from coexistence.migration import Conversion, convert_file
from coexistence.migration.cutover import CannotSwitch, Switched, objections, switch
from coexistence.migration.evidence import evidence
from coexistence.migration.replace_file import draft_beside
from profiles.configuration import InstrumentChecks, find_configuration, line_settings
from profiles.data_directory import DEFAULT_DATA_DIRECTORY

if TYPE_CHECKING:
    from rich.console import Console


def run_migrate(
    old: Path, *, output: Path | None, to: Generation, shadows: bool, force: bool, json_output: bool
) -> int:
    """Convert a configuration file, tell what was done with each instrument, and write the new one.

    Parameters
    ----------
    old
        The old file; it is left as it is.
    output
        Where the new one goes; None prints it.
    to, shadows
        As for :func:`coexistence.migration.convert_file`.
    force
        Whether a file that is there may be replaced.
    json_output
        Print what was done as one JSON object on the last line of the standard error output, instead of text.

    Returns
    -------
    int
        0, or 1 when an instrument needs a hand.

    Raises
    ------
    ConversionRefused
        The file cannot be converted.
    CannotWrite
        The new file is there already, or cannot be written.
    """
    if output is not None and output.exists() and not force:
        raise CannotWrite(output, "it is there already", "Choose another name, or add --force.")
    conversion = convert_file(old, load_file, to=to, shadows=shadows)
    if output is None:
        sys.stdout.write(conversion.text)
        sys.stdout.flush()
    else:
        try:
            with draft_beside(output, conversion.text.encode()) as draft:
                draft.replace(output)
        except OSError as error:
            raise CannotWrite(output, error.strerror or str(error), "Choose another place.") from error
    if json_output:
        written = None if output is None else str(output)
        print(json.dumps({**conversion.as_json(), "output": written}), file=sys.stderr)
    else:
        _tell(conversion, old, output)
    return 0 if conversion.without_a_hand == len(conversion.instruments) else 1


class CannotWrite(CoexistenceError):
    """A converted file cannot be written; nothing was changed."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path} was not written: {reason}. {remedy}")


def run_switch(
    instrument_id: str,
    files: Sequence[str],
    *,
    to: Generation,
    data_dir: Path | None,
    sure: bool,
    json_output: bool,
) -> int:
    """Switch one instrument to the other generation in its configuration; ask first when evidence is missing or bad.

    Parameters
    ----------
    instrument_id
        The instrument in use.
    files
        The configuration, later files over earlier ones.
    to
        The generation it is to have.
    data_dir
        Where the shadow report keeps its evidence; None takes what the configuration says.
    sure
        Do not ask.
    json_output
        Print one JSON object as the last line, and everything else to the standard error output.

    Returns
    -------
    int
        0, or 1 when the user did not agree.

    Raises
    ------
    CannotSwitch, CannotEdit, FileChanged, ConfigError, OSError
        As :func:`coexistence.migration.cutover.switch`; nothing is changed.
    """
    paths = [find_configuration(file) for file in files]
    for path in paths:
        if Path(__file__).parent in path.resolve().parents:
            raise CannotSwitch(
                instrument_id, f"{path} comes with the project", "Copy it, and switch the instrument in the copy."
            )
    config = load_files(paths)
    found = evidence(data_directory(config, data_dir), instrument_id)
    against = objections(config, instrument_id, found, to)
    if against and not sure:
        for objection in against:
            print(f"{instrument_id}: {objection}", file=sys.stderr)
        if not _agreed(f"Switch {instrument_id} to {to} nevertheless?"):
            print("Nothing was changed.", file=sys.stderr)
            return 1
    done = switch(paths, instrument_id, to, load_files, evidence=found)
    if json_output:
        print(json.dumps({**done.as_json(), "warnings": against}))
    else:
        _tell_switched(done, against if sure else [])
    return 0


def load_file(path: Path) -> DualConfig:
    """Read one file as `tandem config check` does, the environment left out: it is none of the file."""
    return load_files([path])


def load_files(paths: Sequence[Path]) -> DualConfig:
    """Read files, later ones over earlier ones, without the environment.

    Raises
    ------
    ConfigError
        With all problems.
    """
    return DualConfig.load(*paths, environment={}, check=InstrumentChecks(), line_settings=line_settings)


def data_directory(config: DualConfig, given: Path | None) -> Path:
    """Return the data directory of the sessions of a configuration."""
    return given or config.catalog_directory or DEFAULT_DATA_DIRECTORY


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        print(f"{question} Add --yes to do it.", file=sys.stderr)
        return False
    try:
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        return input().strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _tell(conversion: Conversion, old: Path, output: Path | None) -> None:
    console = _console()
    styles = {"converted": "green", "converted with a remark": "yellow", "needs a hand": "bold red"}
    for one in conversion.instruments:
        became = f" -> {', '.join(one.new_ids)} ({one.new_type})" if one.new_ids else ""
        console.print(f"[{styles[one.outcome]}]{one.outcome}[/]: ", end="")
        console.print(f"{one.old_id}{became}", markup=False, highlight=False)
        for remark in [one.reason] if one.reason else one.remarks:
            console.print(f"  - {remark}", markup=False, highlight=False, soft_wrap=True)
    for note in conversion.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    total, good = len(conversion.instruments), conversion.without_a_hand
    rate = f" ({good / total:.0%})" if total else ""
    written = "" if output is None else f"; written to {output}"
    console.print(
        f"{old}: {good} of {total} instruments converted without a hand{rate}{written}", highlight=False, soft_wrap=True
    )


def _tell_switched(done: Switched, against: Sequence[str]) -> None:
    for objection in against:
        print(f"{done.instrument_id}: {objection}", file=sys.stderr)
    files = ", ".join(str(path) for path in done.files)
    roles = f"; {done.shadow} is its shadow in {done.from_generation} now" if done.shadow else ""
    print(f"{done.instrument_id} is {done.to_generation} now, its columns keep their names{roles}. Changed: {files}")
    back = "rollback" if done.to_generation == "v4" else "cutover"
    print(f"Sessions that are open go on as they are. The way back: tandem config {back} {done.instrument_id} {files}")


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)
