"""Checksums of the files a run refers to: images of cameras, which lie outside the catalog.

When a run is delivered, the catalog daemon reads its files once they have come to rest and stores size, time of the
last change and SHA-256 of each: in ``<uid>.checksums.json`` beside the run's journal, and in the run's metadata on the
server under the key ``checksums``. A directory (Zarr, a sequence of TIFF files) counts as one: its checksum is that of
the names and checksums of all files in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .directory import DataDirectory
from .encoding import Document
from .errors import JournalError
from .journal import find_journal, read_journal, sync_folder

logger = logging.getLogger("catalog.daemon")

CHECKSUMS_KEY = "checksums"
"""Key of a run's metadata on the server, beside ``start`` and ``stop``."""

SETTLED_S = 1.0
"""A file counts as complete when it has not changed for so long: devices close theirs after the run has ended."""

LONGEST_WAIT_S = 60.0
"""After this a file that still changes is taken as it is."""

POLL_INTERVAL_S = 0.2
BLOCK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """What a file was when its run was delivered.

    Attributes
    ----------
    size : int
        Bytes, of a directory those of all files in it.
    modified : float
        Time of the last change, seconds of Unix time.
    sha256 : str
        Checksum, hexadecimal.
    """

    size: int
    modified: float
    sha256: str


@dataclass(frozen=True)
class FileProblem:
    """A file that is not what it was.

    Attributes
    ----------
    path : Path
        The file.
    problem : str
        ``missing``, ``changed``, ``unreadable (...)`` or ``not computed yet``.
    """

    path: Path
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


def files_of(documents: Iterable[tuple[str, Document]]) -> list[Path]:
    """Return the files on this computer that documents refer to, each once."""
    files: dict[Path, None] = {}
    for name, document in documents:
        if (path := file_of(name, document)) is not None:
            files[path] = None
    return list(files)


def file_of(name: str, document: Document) -> Path | None:
    """Return the file that a resource or stream resource refers to; None for other documents and places."""
    if name == "resource":
        return Path(os.path.join(document.get("root", "/"), document["resource_path"]))
    if name == "stream_resource":
        address = urlsplit(document["uri"])
        if address.scheme == "file":
            return Path(unquote(address.path))
    return None


def record_of(path: Path) -> FileRecord:
    """Read a file or directory and return what it is.

    Raises
    ------
    OSError
        It cannot be read.
    """
    if not path.is_dir():
        facts = path.stat()
        return FileRecord(size=facts.st_size, modified=facts.st_mtime, sha256=_digest(path))
    whole = hashlib.sha256()
    size, modified = 0, 0.0
    for part in _parts(path):
        facts = part.stat()
        size += facts.st_size
        modified = max(modified, facts.st_mtime)
        whole.update(f"{part.relative_to(path).as_posix()}\0{_digest(part)}\n".encode())
    return FileRecord(size=size, modified=modified, sha256=whole.hexdigest())


def verify_files(data_dir: str | os.PathLike[str], uid: str) -> list[FileProblem]:
    """Compare the files of a run with their stored checksums; an empty list means that all are what they were.

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
    JournalCorrupt, JournalError
        The journal or the file of the checksums is damaged.
    """
    journal = find_journal(data_dir, uid)
    stored = _stored(journal)
    if stored is None:
        return [FileProblem(path, "not computed yet") for path in files_of(read_journal(journal))]
    problems = []
    for name, facts in stored.items():
        path = Path(name)
        try:
            if facts is None:
                if not path.exists():
                    problems.append(FileProblem(path, "missing"))
            elif record_of(path).sha256 != facts["sha256"]:
                problems.append(FileProblem(path, "changed"))
        except FileNotFoundError:
            problems.append(FileProblem(path, "missing"))
        except OSError as error:
            problems.append(FileProblem(path, f"unreadable ({error.strerror})"))
    return problems


class Checksums:
    """Computes the checksums of delivered runs, in a thread that lives as long as there are any to do.

    What is to be done is on the disk (``journal/<uid>.files``), so that a daemon that ends leaves it to the next.
    """

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory
        self._done: dict[str, dict[str, FileRecord | None]] = {}
        self._waiting = {unquote(note.name.removesuffix(".files")) for note in directory.journals.glob("*.files")}
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()

    @property
    def busy(self) -> bool:
        """Whether any are being computed or not stored yet."""
        return bool(self._waiting)

    def add(self, uid: str, files: Iterable[Path]) -> None:
        """Have the files of a run that is about to be put away read when they have come to rest."""
        self._directory.checksums_to_do(uid).write_text(json.dumps([str(path) for path in files]), "utf-8")
        self._waiting.add(uid)

    def step(self, runs: Any) -> None:
        """Store what is done, in the container of runs too; to be called often."""
        if self._waiting and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._compute, name="checksums", daemon=True)
            self._thread.start()
        for uid, records in list(self._done.items()):
            journal = find_journal(self._directory.root, uid)
            files = _stored(journal)  # of a run that is replayed: what its files were at first is what counts
            if files is None:
                files = {path: asdict(record) if record is not None else None for path, record in records.items()}
                _store(_path_beside(journal), files)
            with contextlib.suppress(KeyError):  # the run is not there any more
                runs[uid].update_metadata({CHECKSUMS_KEY: files}, drop_revision=True)
            self._forget(uid)

    def end(self) -> None:
        """Give up what is being computed; the next daemon begins it again."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def _forget(self, uid: str) -> None:
        self._directory.checksums_to_do(uid).unlink(missing_ok=True)
        self._done.pop(uid, None)
        self._waiting.discard(uid)

    def _compute(self) -> None:
        for uid in [uid for uid in tuple(self._waiting) if uid not in self._done]:
            try:
                files = [Path(name) for name in json.loads(self._directory.checksums_to_do(uid).read_text("utf-8"))]
            except (OSError, ValueError):
                self._forget(uid)  # replayed or removed meanwhile
                continue
            records: dict[str, FileRecord | None] = {}
            for path in files:
                if not self._settle(path):
                    return
                try:
                    records[str(path)] = record_of(path)
                except OSError as error:
                    logger.warning("No checksum of %s, which run %s refers to: %s", path, uid, error.strerror)
                    records[str(path)] = None
            self._done[uid] = records

    def _settle(self, path: Path) -> bool:
        """Wait until a file rests; False when there is no time for that any more."""
        began = time.monotonic()
        while time.monotonic() - began < LONGEST_WAIT_S:
            try:
                changed = max(part.stat().st_mtime for part in (_parts(path) if path.is_dir() else [path]))
            except (OSError, ValueError):
                return not self._ending.is_set()
            if abs(time.time() - changed) >= SETTLED_S:
                break
            if self._ending.wait(POLL_INTERVAL_S):
                return False
        return not self._ending.is_set()


def _path_beside(journal: Path) -> Path:
    return journal.with_name(journal.name.removesuffix(".gz").removesuffix(".jsonl") + ".checksums.json")


def _store(path: Path, files: dict[str, Any]) -> None:
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps({"algorithm": "sha256", "files": files}, indent=1) + "\n", "utf-8")
    draft.replace(path)
    sync_folder(path.parent)


def _stored(journal: Path) -> dict[str, Any] | None:
    path = _path_beside(journal)
    try:
        files = json.loads(path.read_text("utf-8"))["files"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(path, f"{path} holds no checksums ({error}). Restore it from a backup.") from error
    return dict(files)


def _parts(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
