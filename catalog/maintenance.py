"""Look after a catalog: how it stands, whether it equals the journals, writing runs again from them."""

from __future__ import annotations

import gzip
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .checksums import FileProblem, verify_files
from .client import open_catalog
from .directory import REPLAYED, CatalogState, DataDirectory, uid_of_journal
from .errors import JournalCorrupt, JournalError
from .external import explain
from .journal import find_journal, read_journal, sync_descriptor, sync_folder
from .launch import daemon_runs, leases_held
from .locking import is_locked
from .verify import Difference, NotCompared, compare_run


@dataclass(frozen=True, kw_only=True)
class CatalogStatus:
    """How a catalog stands.

    Attributes
    ----------
    daemon : CatalogState or None
        The daemon's own account; None when none runs.
    sessions : int
        Sessions and notebooks that use the catalog.
    kept : bool
        Whether it goes on without them.
    open_runs, waiting_runs : list of str
        Uids of the runs that go on, and of the finished ones that are not delivered.
    problems : dict
        Why a run cannot be delivered, by uid.
    delivered_runs : int
        Number of delivered journals.
    journal_bytes : int
        Space that all journals take.
    """

    daemon: CatalogState | None
    sessions: int
    kept: bool
    open_runs: list[str]
    waiting_runs: list[str]
    problems: dict[str, str]
    delivered_runs: int
    journal_bytes: int


def status(data_dir: str | os.PathLike[str]) -> CatalogStatus:
    """Tell how the catalog of a data directory stands, without starting anything.

    Raises
    ------
    NoCatalog
        No session has ever recorded there.
    """
    directory = DataDirectory.existing(data_dir)
    going_on: list[str] = []
    waiting: list[str] = []
    journal_bytes = 0
    for path in sorted(directory.journals.glob("*.jsonl")):
        (going_on if is_locked(path) else waiting).append(uid_of_journal(path))
        journal_bytes += _size(path)
    delivered = list(_delivered(directory))
    return CatalogStatus(
        daemon=CatalogState.read(directory) if daemon_runs(directory) else None,
        sessions=leases_held(directory),
        kept=directory.keep_mark.exists(),
        open_runs=going_on,
        waiting_runs=waiting,
        problems={
            uid_of_journal(note.with_suffix(".jsonl")): note.read_text("utf-8").strip()
            for note in directory.journals.glob("*.problem")
            if note.with_suffix(".jsonl").exists()
        },
        delivered_runs=len(delivered),
        journal_bytes=journal_bytes + sum(map(_size, delivered)),
    )


def verify(
    data_dir: str | os.PathLike[str], uids: Iterable[str] | None = None, *, files: bool = True
) -> Iterator[tuple[str, list[Difference | FileProblem | NotCompared]]]:
    """Compare delivered runs with their journals, and their files with the checksums; yield uids and what differs.

    A damaged journal, or a run that the server cannot give or does not have yet, is told like a difference, and the
    runs after it are compared all the same. Files whose checksums the daemon is still to compute are passed over.

    Parameters
    ----------
    data_dir : path
        The data directory.
    uids : iterable of str, optional
        Uids, or beginnings of uids, of the runs; all by default.
    files : bool
        Whether to read the files that runs refer to, images of cameras mostly.

    Raises
    ------
    NoCatalog, UnknownRun, CatalogStartFailed, CatalogTimeout
        What to compare is not there.
    """
    import httpx

    directory = DataDirectory.existing(data_dir)
    catalog = open_catalog(directory.root)
    paths = _delivered(directory) if uids is None else [find_journal(directory.root, uid) for uid in uids]
    for path in paths:
        uid = uid_of_journal(path)
        differences: list[Difference | FileProblem | NotCompared] = []
        if path.suffix != ".gz":
            differences.append(NotCompared("run", "it goes on or is still to be delivered, see tandem catalog status"))
            yield uid, differences
            continue
        try:
            differences += (
                compare_run(directory.root, catalog[uid]) if uid in catalog else [Difference("run", uid, None)]
            )
        except JournalCorrupt as damage:
            differences.append(NotCompared("journal", str(damage)))
        except httpx.HTTPStatusError as error:
            differences.append(NotCompared("catalog", explain(error, catalog.uri)))
        if files and not directory.checksums_to_do(uid).exists():
            try:
                differences += verify_files(directory.root, uid)
            except JournalCorrupt:
                pass  # told already
            except JournalError as damage:
                differences.append(NotCompared("checksums", str(damage)))
        yield uid, differences


def replay(
    data_dir: str | os.PathLike[str],
    uids: Iterable[str] | None = None,
    *,
    rewrite: bool = False,
    on_damage: Callable[[JournalCorrupt], object] | None = None,
) -> list[str]:
    """Have delivered runs delivered again from their journals; return their uids.

    Runs that are in the catalog as a whole stay as they are, so this restores what the catalog lacks. A run whose
    journal is damaged stays as it is in any case: what the catalog has of it may be all there is.

    Parameters
    ----------
    data_dir : path
        The data directory.
    uids : iterable of str, optional
        Uids, or beginnings of uids, of the runs; all by default.
    rewrite : bool
        Delete the runs from the catalog first. They are then listed as if they were the latest.
    on_damage : callable, optional
        Called with what is wrong with each damaged journal.

    Raises
    ------
    NoCatalog, UnknownRun
        What to replay is not there.
    JournalCorrupt
        A journal is damaged, and there is no ``on_damage``; runs before it are delivered again, it is left as it is.
    """
    directory = DataDirectory.existing(data_dir)
    found = _delivered(directory) if uids is None else [find_journal(directory.root, uid) for uid in uids]
    paths = [path for path in found if path.suffix == ".gz"]
    catalog = open_catalog(directory.root) if rewrite and paths else None
    replayed = []
    for path in paths:
        uid = uid_of_journal(path)
        try:
            deque(read_journal(path), maxlen=0)
        except JournalCorrupt as damage:
            if on_damage is None:
                raise
            on_damage(damage)
            continue
        if catalog is not None and uid in catalog:
            catalog.delete_contents(uid, recursive=True, external_only=False)
        _uncompress(directory, path)
        replayed.append(uid)
    return replayed


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # delivered, and with that compressed, since it was listed
        return 0


def _delivered(directory: DataDirectory) -> Iterator[Path]:
    for folder in directory.delivered_folders():
        yield from sorted(folder.glob("*.jsonl.gz"))


def _uncompress(directory: DataDirectory, path: Path) -> None:
    target = directory.journals / path.name.removesuffix(".gz")
    draft = target.with_name(target.name + REPLAYED)
    with gzip.open(path, "rb") as source, open(draft, "wb") as sink:
        shutil.copyfileobj(source, sink)
        sink.flush()
        sync_descriptor(sink.fileno())
    times = path.stat()
    os.utime(draft, ns=(times.st_atime_ns, times.st_mtime_ns))
    # The compressed form goes first: while both are there, the run counts as delivered.
    keep = path.with_name(path.name + REPLAYED)
    path.rename(keep)
    draft.rename(target)
    sync_folder(directory.journals)
    keep.unlink()
