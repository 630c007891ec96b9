"""The exact record of what was emitted: one append-only file of JSON lines per run."""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import sys
import threading
import time
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import quote

import numpy as np

from .directory import DataDirectory, uid_of_journal
from .encoding import Document, decode, encode
from .errors import DiskFull, JournalCorrupt, JournalError, JournalWriteError, UnknownRun
from .locking import lock_descriptor
from .reserve import DISK_FULL, RESERVE_BYTES, Reserve

SYNC_INTERVAL_S = 1.0
"""Longest time between a document's arrival and its being synced to the disk."""

PENDING_LIMIT_BYTES = 16 * 2**20
"""Most that is kept in memory for a run whose disk refuses it."""

DOCUMENTS_AT_HAND = 4
"""Large documents that are emitted at most between a full disk and the pause, the stop document included."""

LISTED_VALUE_BYTES = 20
"""A number in a list, as text."""


class Journal:
    """Record every document of every run, to be subscribed to a RunEngine.

    Each document is handed to the operating system before the call returns, so a killed process loses nothing;
    a thread that exists only while a run is open syncs the files to the disk within a second, and the end of a
    run is synced before the call returns. An open run's file is locked, which tells it from one whose session
    has died. Forked children let go of the files.

    When the disk refuses a document, it is kept in memory and written before anything else as soon as the disk
    takes it again; ``pause`` is called so that nothing more is measured meanwhile. Without ``pause``, and when
    more than 16 MiB wait, the call raises, which makes the RunEngine end the plan. When the run ends meanwhile, room
    that was set aside on the disk is given up for the documents in memory and the end of the run: 1 MiB, or more where
    documents are large. A disk without that room counts as full.

    Parameters
    ----------
    data_dir : path
        The data directory; created when missing.
    pause : callable, optional
        Called from a thread of its own when the disk refuses a document, with nothing else to do than to pause
        the scan: ``RE.request_pause``.
    on_trouble : callable, optional
        Called with the `JournalWriteError` at the same moment, to tell the user.

    Raises
    ------
    DataDirectoryError
        The directory cannot be created or written.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        *,
        pause: Callable[[], object] | None = None,
        on_trouble: Callable[[JournalWriteError], object] | None = None,
    ) -> None:
        self.directory = DataDirectory.at(data_dir)
        self.directory.create()
        self._pause = pause
        self._on_trouble = on_trouble
        self._runs: dict[str, _OpenRun] = {}
        self._owners: dict[str, _OpenRun] = {}  # by uid of a descriptor or resource
        self._changed = threading.Condition(threading.Lock())
        self._syncer: threading.Thread | None = None
        self._sync_error: JournalWriteError | None = None
        self._pausing: threading.Thread | None = None
        self._reserve = Reserve(self.directory.journals)
        self._room = RESERVE_BYTES

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Record one document.

        Raises
        ------
        DiskFull, JournalWriteError
            The document could not be stored, now or at the last sync.
        UnrecordableValue
            The document holds a value without an exact form.
        JournalError
            The document belongs to no run this journal has seen the start of.
        """
        line = encode(name, doc)
        with self._changed:
            if name == "start":
                self._open(doc["uid"], line)
            else:
                run = self._run_of(name, doc)
                if name in ("descriptor", "resource", "stream_resource"):
                    self._owners[doc["uid"]] = run
                    run.references.append(doc["uid"])
                if name == "stop":
                    self._finish(run, line)
                else:
                    self._append(run, line, _event_bytes(doc) if name == "descriptor" else 0)
            if self._sync_error is not None:
                error, self._sync_error = self._sync_error, None
                raise error

    @property
    def open_runs(self) -> list[str]:
        """Uids of the runs that have started and not stopped."""
        with self._changed:
            return list(self._runs)

    def close(self) -> None:
        """Close the files; a run still open is from now on taken for one that was left unfinished."""
        with self._changed:
            for run in list(self._runs.values()):
                self._forget(run)
                if run.pending_bytes:
                    with contextlib.suppress(JournalWriteError):  # it was told when they could not be written
                        self._write_at_last(run, b"")
                run.close()
            self._reserve.give_up()
            self._changed.notify_all()
            syncer = self._syncer
        if syncer is not None:
            syncer.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run_of(self, name: str, doc: Mapping[str, Any]) -> _OpenRun:
        run: _OpenRun | None
        if name in ("event", "event_page", "stream_datum"):
            run = self._owners.get(doc["descriptor"])
        elif name in ("datum", "datum_page"):
            run = self._owners.get(doc["resource"])
        else:
            run = self._runs.get(doc.get("run_start", ""))
            if run is None and name == "resource" and len(self._runs) == 1:
                (run,) = self._runs.values()  # resources of old detectors may lack the run's uid
        if run is None:
            raise JournalError(
                self.directory.journals,
                f"A document '{name}' arrived for a run whose start was not recorded. Subscribe the journal "
                "before the run is opened, and use one journal for all its documents.",
            )
        return run

    def _open(self, uid: str, line: bytes) -> None:
        path = self.directory.journal_of(uid)
        if path.exists() or self.directory.delivered_journal_of(uid) is not None:
            raise JournalError(path, f"A run with the uid {uid} is already recorded in {self.directory.root}.")
        try:
            self._reserve.hold(self._room)
        except OSError as error:
            raise _write_error(path, error) from error
        run = _OpenRun(uid, path, line)
        self._runs[uid] = run
        if self._syncer is None:
            self._syncer = threading.Thread(target=self._keep_synced, name="journal sync", daemon=True)
            self._syncer.start()
        else:
            self._changed.notify_all()

    def _append(self, run: _OpenRun, line: bytes, event_bytes: int) -> None:
        if (longest := max(len(line), event_bytes)) > self._room // DOCUMENTS_AT_HAND:
            self._room = min(DOCUMENTS_AT_HAND * longest, PENDING_LIMIT_BYTES + 2 * longest)
        try:
            run.append(line)
            self._hold_room(run.path)
        except JournalWriteError as error:
            if self._on_trouble is not None and not run.troubled:
                self._on_trouble(error)
            run.troubled = True
            if self._pause is None or run.pending_bytes > PENDING_LIMIT_BYTES:
                raise
            if self._pausing is None or not self._pausing.is_alive():
                # The RunEngine must go on turning to be paused, and it is the RunEngine that called us.
                self._pausing = threading.Thread(target=self._request_pause, name="journal pause", daemon=True)
                self._pausing.start()
        else:
            run.troubled = False

    def _hold_room(self, path: Path) -> None:
        try:
            self._reserve.hold(self._room)
        except OSError as error:
            raise _write_error(path, error) from error

    def _request_pause(self) -> None:
        # A RunEngine that is already pausing or ending refuses; either way it measures nothing more.
        with contextlib.suppress(Exception):
            if self._pause is not None:
                self._pause()

    def _finish(self, run: _OpenRun, line: bytes) -> None:
        self._forget(run)
        try:
            self._write_at_last(run, line)
            run.sync()
        finally:
            run.close()
            self._changed.notify_all()

    def _write_at_last(self, run: _OpenRun, line: bytes) -> None:
        """Write what waits and a last line, on a full disk into the room that was set aside."""
        try:
            run.append(line)
        except DiskFull:
            if not self._reserve.give_up():
                raise
            run.append(b"")

    def _forget(self, run: _OpenRun) -> None:
        del self._runs[run.uid]
        for reference in run.references:
            self._owners.pop(reference, None)

    def _keep_synced(self) -> None:
        while True:
            with self._changed:
                runs = list(self._runs.values())
                if not runs:
                    self._syncer = None
                    return
            for run in runs:
                try:
                    run.sync()
                except JournalWriteError as error:
                    self._sync_error = error
            with self._changed:
                if self._runs and list(self._runs.values()) == runs:
                    self._changed.wait(SYNC_INTERVAL_S)


class _OpenRun:
    """The locked file of one run that is going on."""

    def __init__(self, uid: str, path: Path, first_line: bytes) -> None:
        self.uid = uid
        self.path = path
        self.references: list[str] = []
        self.troubled = False
        self.pending_bytes = 0
        self._pending: deque[bytes] = deque()
        self._size = 0
        self._synced = 0
        self._named = False
        self._closing = threading.Lock()
        # Whoever finds the final name finds a locked file that begins with a whole start document.
        draft = path.with_name(path.name + ".new")
        try:
            self._descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _write_error(path, error) from error
        try:
            lock_descriptor(self._descriptor)
            self._write(first_line)
            draft.rename(path)
        except BaseException as error:
            os.close(self._descriptor)
            with contextlib.suppress(OSError):
                draft.unlink()
            if isinstance(error, OSError):
                raise _write_error(path, error) from error
            raise
        _open_runs.add(self)

    def append(self, line: bytes) -> None:
        self._pending.append(line)
        self.pending_bytes += len(line)
        try:
            while self._pending:
                self._write(self._pending[0])
                self.pending_bytes -= len(self._pending.popleft())
        except OSError as error:
            raise _write_error(self.path, error) from error

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except BaseException:
            # Half a line must not stand before the next one.
            os.ftruncate(self._descriptor, self._size)
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
            raise
        self._size += len(line)

    def sync(self) -> None:
        with self._closing:
            if self._descriptor < 0 or (self._synced == self._size and self._named):
                return
            size = self._size
            try:
                sync_descriptor(self._descriptor)
                if not self._named:
                    sync_folder(self.path.parent)
                    self._named = True
            except OSError as error:
                raise _write_error(self.path, error) from error
            self._synced = size

    def close(self) -> None:
        with self._closing:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def abandon(self) -> None:
        """Close in a forked child, where the other thread that may hold the lock does not exist."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


_open_runs: weakref.WeakSet[_OpenRun] = weakref.WeakSet()


def _abandon_in_child() -> None:
    for run in list(_open_runs):
        run.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_in_child)


def _event_bytes(descriptor: Mapping[str, Any]) -> int:
    """Return about how long the lines of events will be, as far as arrays in them make them long."""
    size = 0.0
    for data_key in descriptor.get("data_keys", {}).values():
        if "external" not in data_key:
            values = math.prod(length for length in data_key.get("shape") or () if isinstance(length, int))
            try:
                size += values * np.dtype(data_key["dtype_numpy"]).itemsize * 4 / 3
            except (KeyError, TypeError, ValueError):
                size += values * LISTED_VALUE_BYTES
    return int(size)


def _write_error(path: Path, error: OSError) -> JournalWriteError:
    return (DiskFull if error.errno in DISK_FULL else JournalWriteError)(path, error)


def sync_descriptor(descriptor: int) -> None:
    """Bring an open file to the disk itself."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # plain fsync stops at the drive's cache there
    else:
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class JournalTail:
    """Read a journal while it grows.

    Parameters
    ----------
    path : Path
        An uncompressed journal.

    Attributes
    ----------
    offset : int
        Bytes read so far, always the end of a whole line.
    line : int
        Lines read so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.line = 0
        self._file: IO[bytes] = open(path, "rb")  # noqa: SIM115 - closed by close()

    def read(self, most_bytes: int = 4 * 2**20) -> list[tuple[str, Document]]:
        """Return the next documents, about ``most_bytes`` of them at most; empty when there is nothing new.

        Raises
        ------
        JournalCorrupt
            A whole line is no document.
        """
        documents = []
        self._file.seek(self.offset)
        begin = self.offset
        while self.offset - begin < most_bytes:
            line = self._file.readline()
            if not line.endswith(b"\n"):
                break  # still being written, or torn by a kill
            documents.append(_decode_line(self.path, self.line + 1, line))
            self.offset += len(line)
            self.line += 1
        return documents

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_journal(path: str | os.PathLike[str]) -> Iterator[tuple[str, Document]]:
    """Yield the name and document of each line of a journal, plain or compressed.

    A last line without an end, as a killed process may leave it, is passed over.

    Raises
    ------
    JournalCorrupt
        A whole line is no document, or the compressed file is damaged; names the file and the line.
    """
    path = Path(path)
    number = 0
    opener: Callable[[Path], Any] = gzip.open if path.suffix == ".gz" else _open_plain
    with opener(path) as file:
        while True:
            try:
                line = file.readline()
            except (EOFError, zlib.error, OSError) as error:
                raise JournalCorrupt(path, number + 1, str(error)) from error
            if not line.endswith(b"\n"):
                return
            number += 1
            yield _decode_line(path, number, line)


def _open_plain(path: Path) -> IO[bytes]:
    return open(path, "rb")


def _decode_line(path: Path, number: int, line: bytes) -> tuple[str, Document]:
    try:
        return decode(line)
    except ValueError as error:
        raise JournalCorrupt(path, number, str(error)) from error


def find_journal(data_dir: str | os.PathLike[str], uid: str) -> Path:
    """Return the journal of a run, open, undelivered or delivered.

    Parameters
    ----------
    data_dir : path
        The data directory.
    uid : str
        The run's uid or its beginning.

    Raises
    ------
    UnknownRun
        No run, or more than one, has this uid.
    DataDirectoryError
        The directory cannot be read.
    """
    directory = DataDirectory.at(data_dir)
    if not isinstance(uid, str):
        raise UnknownRun(f"{uid}", f"{directory.root}: journals go by uid, as catalog[{uid}].metadata['start']['uid']")
    found: dict[str, Path] = {}
    with directory.access():
        path = directory.journal_of(uid)
        if uid and path.exists():
            return path
        if uid and (delivered := directory.delivered_journal_of(uid)):
            return delivered
        for candidate in _journals(directory):
            if uid and candidate.name.startswith(quote(uid, safe="")):
                found[uid_of_journal(candidate)] = candidate
    if len(found) != 1:
        raise UnknownRun(uid, directory.root, sorted(found))
    return found.popitem()[1]


def recorded_runs(data_dir: str | os.PathLike[str], since: float | None = None) -> list[str]:
    """Return the uids of all runs that have a journal, those first whose journal was written last.

    For :func:`read_run`, which finds a journal that is compressed meanwhile.

    Parameters
    ----------
    data_dir : path
        The data directory.
    since : float, optional
        Leave out what was last written before this time, in seconds since 1970: runs that began later are all there.

    Raises
    ------
    DataDirectoryError
        The directory cannot be read.
    """
    directory = DataDirectory.at(data_dir)
    written: dict[str, float] = {}
    with directory.access():
        for path in _journals(directory):
            with contextlib.suppress(FileNotFoundError):  # compressed just now, which comes later
                written[uid_of_journal(path)] = path.stat().st_mtime
    return sorted((uid for uid, at in written.items() if since is None or at >= since), key=lambda uid: -written[uid])


def _journals(directory: DataDirectory) -> Iterator[Path]:
    """Yield the journals, delivered ones last: of a run that is delivered meanwhile both are seen, and never none."""
    yield from _journals_in(directory.journals)
    for folder in directory.delivered_folders():
        yield from _journals_in(folder)


def _journals_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.name.endswith((".jsonl", ".jsonl.gz"))]
    except FileNotFoundError:
        return []


def read_run(data_dir: str | os.PathLike[str], uid: str) -> Iterator[tuple[str, Document]]:
    """Yield the documents of a run, whether its journal is plain, compressed, or being compressed just now.

    Parameters
    ----------
    data_dir : path
        The data directory.
    uid : str
        The run's uid or its beginning.

    Raises
    ------
    UnknownRun
        No run, or more than one, has this uid.
    JournalCorrupt
        The journal is damaged.
    """
    path = find_journal(data_dir, uid)
    documents = read_journal(path)
    with DataDirectory.at(data_dir).access():
        try:
            yield next(documents)
        except StopIteration:
            return
        except FileNotFoundError:
            documents = read_journal(find_journal(data_dir, uid_of_journal(path)))
        yield from documents


def original_documents(data_dir: str | os.PathLike[str], uid: str) -> list[tuple[str, Document]]:
    """Return the documents of a run exactly as they were emitted.

    Parameters
    ----------
    data_dir : path
        The data directory.
    uid : str
        The run's uid or its beginning.

    Raises
    ------
    UnknownRun
        No run, or more than one, has this uid.
    JournalCorrupt
        The journal is damaged.
    """
    return list(read_run(data_dir, uid))


def compress_journal(directory: DataDirectory, path: Path) -> Path:
    """Replace a delivered journal by its compressed form in the folder of its month; return that file.

    The compressed file is complete and on the disk before the plain one goes, so that a crash at any moment
    leaves at least one of them.
    """
    written = path.stat()
    month = time.strftime("%Y-%m", time.localtime(written.st_mtime))
    folder = directory.journals / month
    folder.mkdir(exist_ok=True)
    target = folder / (path.name + ".gz")
    if not target.exists():
        draft = target.with_name(target.name + ".new")
        with open(path, "rb") as source, open(draft, "wb") as sink:
            with gzip.GzipFile(filename="", mode="wb", fileobj=sink, compresslevel=6) as packed:
                while block := source.read(2**20):
                    packed.write(block)
            sink.flush()
            sync_descriptor(sink.fileno())
        os.utime(draft, ns=(written.st_atime_ns, written.st_mtime_ns))
        draft.rename(target)
        sync_folder(folder)
    path.unlink()
    return target
