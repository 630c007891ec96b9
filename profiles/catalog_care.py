"""`tandem catalog ...`: how the catalog of recorded runs stands, and what keeps it well."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from catalog import CatalogTimeout, FileProblem, JournalCorrupt, maintenance, shut_down, wait_delivered, web_address
from catalog.compact import compact
from catalog.databroker_profile import write_profile
from catalog.directory import DataDirectory, uid_of_journal
from catalog.launch import ensure_daemon
from catalog.verify import NotCompared
from profiles.console import fits_to, say, say_fitted
from profiles.data_directory import CATALOG_WAIT_S

SHOWN_DIFFERENCES = 10
_UNITS = ("B", "kB", "MB", "GB", "TB")


def show_status(data_dir: Path, *, json_output: bool) -> int:
    """Print how the catalog stands, without starting anything; 1 when something needs attention."""
    status = maintenance.status(data_dir)
    daemon = status.daemon
    troubled = bool(status.problems) or (daemon is not None and daemon.phase == "failed")
    if json_output:
        print(json.dumps(asdict(status)))
        return int(troubled)
    console = Console()
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    between = "\n" if fits_to(console) else ", "
    server = "not running" if daemon is None else f"{daemon.phase}, {daemon.url}"
    if daemon is not None and daemon.problem:
        server += f" ({daemon.problem})"
    facts = {
        "server": server,
        "used by": f"{status.sessions} session{'' if status.sessions == 1 else 's'}"
        + (", kept until it is stopped" if status.kept else ""),
        "going on": between.join(status.open_runs) or "no run",
        "waiting": between.join(status.waiting_runs) or "no run",
        "delivered": runs_text(status.delivered_runs),
        "journals": size_text(status.journal_bytes),
    }
    for key, value in facts.items():
        table.add_row(Text(key, "bold"), Text(value))
    say_fitted(console, table)
    for uid, problem in status.problems.items():
        say(console, f"Run {uid} cannot be delivered: {problem}")
    return int(troubled)


def verify(data_dir: Path, runs: Sequence[str], *, files: bool = True, json_output: bool) -> int:
    """Compare runs with their journals, and files with their checksums; print what differs, 1 when anything does."""
    console = Console(stderr=json_output)
    found: dict[str, list[str]] = {}
    checked = 0
    troubled_files = troubled_runs = troubled_journals = False
    for uid, differences in maintenance.verify(data_dir, runs or None, files=files):
        checked += 1
        if differences:
            found[uid] = list(map(str, differences))
            damaged = [
                isinstance(each, FileProblem) or (isinstance(each, NotCompared) and each.what == "checksums")
                for each in differences
            ]
            troubled_files = troubled_files or any(damaged)
            unread = {each.what for each in differences if isinstance(each, NotCompared)}
            if unread & {"journal", "run"}:
                troubled_journals = troubled_journals or "journal" in unread
                what = "Run {} cannot be compared:"
            elif all(damaged):
                what = "The files of run {} are not what they were:"
            else:
                troubled_runs = True
                what = "Run {} differs from its journal:"
            say(console, what.format(uid))
            for line in found[uid][:SHOWN_DIFFERENCES]:
                say(console, f"  {line}")
            if len(found[uid]) > SHOWN_DIFFERENCES:
                say(console, f"  and {len(found[uid]) - SHOWN_DIFFERENCES} more")
    say(console, f"{runs_text(checked)} compared, {len(found)} with differences")
    if troubled_files:
        say(console, "Restore files that have changed or are missing from a backup.")
    if troubled_journals:
        say(console, "Restore damaged journals from a backup; the catalog keeps what it has of their runs.")
    if troubled_runs:
        say(console, "To write a run again from its journal: tandem catalog replay --rewrite --run UID")
    if json_output:
        print(json.dumps({"checked": checked, "differences": found}))
    return int(bool(found))


def replay(data_dir: Path, runs: Sequence[str], *, rewrite: bool, json_output: bool) -> int:
    """Deliver runs again from their journals, and wait until they are there; return the exit code."""
    console = Console(stderr=json_output)
    damaged: list[str] = []

    def tell(damage: JournalCorrupt) -> None:
        damaged.append(str(damage))
        say(console, f"Left as it is: {damage}")

    uids = maintenance.replay(data_dir, runs or None, rewrite=rewrite, on_damage=tell)
    if uids:
        say(console, f"To be delivered again: {runs_text(len(uids))} ...")
        ensure_daemon(data_dir)
        _wait_for_all(data_dir, uids, console)
        say(console, "All are in the catalog.")
    else:
        say(console, "No run is to be delivered again; those that go on or wait are delivered anyway.")
    if json_output:
        print(json.dumps({"runs": uids, "damaged": damaged}))
    return int(bool(damaged))


def compact_catalog(data_dir: Path, *, json_output: bool) -> int:
    """Give back space, and tell how much; return the exit code."""
    done = compact(data_dir)
    if json_output:
        print(json.dumps({**asdict(done), "freed_bytes": done.freed_bytes}))
        return 0
    console = Console()
    for what, size in done.freed.items():
        say(console, f"{size_text(size):>9}  {what}")
    say(console, f"{size_text(done.freed_bytes):>9}  freed in all")
    for what, reason in done.left.items():
        say(console, f"Left as they are: {what} ({reason})")
    return 0


def show_web(data_dir: Path, *, with_key: bool, json_output: bool) -> int:
    """Print the address of the catalog's web page, whose server goes on until it is stopped."""
    address = web_address(data_dir, with_key=with_key, wait=CATALOG_WAIT_S)
    _keep(data_dir)
    if json_output:
        print(json.dumps({"address": address}))
        return 0
    console = Console()
    say(console, address)
    if not with_key:
        say(console, "The page asks for the key; --with-key prints an address that lets the browser in.")
    say(console, f"It stays until: tandem catalog stop --data-dir {data_dir}")
    return 0


def make_profile(data_dir: Path, name: str, *, replace: bool, json_output: bool) -> int:
    """Write a tiled profile, by which databroker finds the catalog; return the exit code."""
    path = write_profile(data_dir, name, replace=replace, wait=CATALOG_WAIT_S)
    if json_output:
        print(json.dumps({"profile": name, "file": str(path)}))
        return 0
    console = Console()
    say(console, f"{path} is written; only you may read it, for it holds the server's key.")
    say(console, f'Scripts open the catalog with: databroker.catalog["{name}"] or Broker.named("{name}")')
    return 0


def stop(data_dir: Path) -> int:
    """Stop a server that was kept, once everything is delivered; return the exit code."""
    stopped = shut_down(DataDirectory.existing(data_dir).root)
    told = "The catalog has stopped." if stopped else "Other sessions use the catalog; it stays until they end."
    say(Console(), told)
    return 0


def runs_text(number: int) -> str:
    """Return so many runs in words: 1 run, 2 runs."""
    return f"{number} run{'' if number == 1 else 's'}"


def size_text(size: float) -> str:
    """Return a size for people: 512 B, 1.5 MB."""
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:
            break
        size /= 1000
    return f"{size:.3g} {unit}"


def _wait_for_all(data_dir: Path, uids: Sequence[str], console: Console) -> None:
    """Wait until runs are delivered, for as long as there are fewer and fewer."""
    journals = DataDirectory.at(data_dir).journals
    waiting = len(uids)
    for uid in uids:
        while True:
            try:
                wait_delivered(data_dir, uid, CATALOG_WAIT_S)
                break
            except CatalogTimeout:
                before, waiting = waiting, len({uid_of_journal(path) for path in journals.glob("*.jsonl")} & {*uids})
                if waiting >= before:
                    raise
                say(console, f"{runs_text(waiting)} still to be delivered ...")


def _keep(data_dir: Path) -> None:
    DataDirectory.at(data_dir).keep_mark.write_text(str(os.getpid()))
