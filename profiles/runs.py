"""`tandem runs`: the latest runs in the catalog, and one of them in detail."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from catalog import open_catalog
from profiles.session import CATALOG_WAIT_S, DEFAULT_DATA_DIRECTORY


def list_runs(data_dir: Path | None, number: int, *, json_output: bool) -> int:
    """Print the latest runs, newest first; return the exit code."""
    directory = data_dir or DEFAULT_DATA_DIRECTORY
    runs = open_catalog(directory, wait=CATALOG_WAIT_S)
    found = [summary_of(run) for run in islice(_newest_first(runs), number)]
    if json_output:
        print(json.dumps(found))
        return 0
    table = Table("scan", "uid", "plan", "began", "points", "ended")
    for run in found:
        began = datetime.fromtimestamp(run["time"]).strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(
            str(run["scan_id"]), run["uid"][:8], run["plan_name"], began, str(run["points"]), run["exit_status"]
        )
    Console().print(table)
    return 0


def show_run(data_dir: Path | None, which: str, *, json_output: bool) -> int:
    """Print the metadata of one run; return the exit code."""
    directory = data_dir or DEFAULT_DATA_DIRECTORY
    runs = open_catalog(directory, wait=CATALOG_WAIT_S)
    key = int(which) if which.lstrip("-").isdigit() else which
    try:
        metadata = dict(runs[key].metadata)
    except KeyError:
        print(f"tandem: there is no run {which!r} in {directory}", file=sys.stderr)
        return 1
    if json_output:
        print(json.dumps(metadata, default=str))
    else:
        Console().print_json(json.dumps(metadata, default=str))
    return 0


def summary_of(run: Any) -> dict[str, Any]:
    """Return what a list says of a run."""
    start = run.metadata["start"]
    stop = run.metadata.get("stop") or {}
    return {
        "scan_id": start.get("scan_id"),
        "uid": start["uid"],
        "plan_name": start.get("plan_name", ""),
        "time": start["time"],
        "points": stop.get("num_events", {}).get("primary", 0),
        "exit_status": stop.get("exit_status", "not ended"),
    }


def _newest_first(runs: Any) -> Any:
    return (runs[-number] for number in range(1, len(runs) + 1))
