"""`tandem runs export`: a run as a file for other programs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from catalog import export_run
from profiles.console import say
from profiles.runs import find_run, open_runs

if TYPE_CHECKING:
    from catalog.run_catalog import RunCatalog


def export(
    data_dir: str | os.PathLike[str],
    which: str | int,
    output: Path,
    *,
    stream: str = "primary",
    json_output: bool = False,
    catalog: RunCatalog | None = None,
    console: Console | None = None,
) -> int:
    """Write a run into a new file and tell what was written; return the exit code.

    Raises
    ------
    UnknownRun
        No run, or more than one, is meant.
    ExportError
        The file exists, its folder does not, the format is unknown, or the run has no such stream.
    """
    console = console or Console()
    run = find_run(catalog if catalog is not None else open_runs(data_dir), which)
    uid = run.metadata["start"]["uid"]
    report = export_run(data_dir, uid, output, stream=stream, run=run)
    if json_output:
        files = list(map(str, report.files))
        print(json.dumps({"run_uid": uid, "files": files, "rows": report.rows, "left_out": report.left_out}))
        return 0
    what = "documents" if output.suffix == ".jsonl" else "events"
    say(console, f"{report.rows} {what} of run {uid[:8]} in {' and '.join(map(str, report.files))}")
    for column, reason in report.left_out.items():
        say(console, f"Left out: {column} ({reason})")
    return 0
