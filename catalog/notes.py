"""Notes and tags that people add to a run afterwards, beside its documents and never in them.

Each run's additions are lines of JSON in ``<data_dir>/notes/<uid>.jsonl``, appended under a lock and never
changed, so that two writers lose nothing and who wrote what when stays known. The catalog daemon copies what they
amount to into the run's metadata on the server, under the key ``annotations``, where it can be searched for.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote

from .directory import DataDirectory, uid_of_journal
from .errors import CatalogError, CatalogTimeout
from .journal import find_journal, sync_descriptor, sync_folder
from .locking import lock_descriptor

ANNOTATIONS_KEY = "annotations"
"""Key of a run's metadata on the server, beside ``start`` and ``stop``."""

LOCK_PATIENCE_S = 30.0
POLL_INTERVAL_S = 0.02


@dataclass(frozen=True)
class Note:
    """A remark on a run.

    Attributes
    ----------
    time : float
        When it was written, seconds of Unix time.
    author : str
        Who wrote it.
    text : str
        What it says.
    """

    time: float
    author: str
    text: str


@dataclass(frozen=True)
class Annotations:
    """What people have added to a run.

    Attributes
    ----------
    notes : tuple of Note
        In the order in which they were written.
    tags : tuple of str
        In alphabetical order.
    """

    notes: tuple[Note, ...] = ()
    tags: tuple[str, ...] = ()

    def as_metadata(self) -> dict[str, Any]:
        """Return the entry of the run's metadata on the server."""
        return {
            "notes": [{"time": note.time, "author": note.author, "text": note.text} for note in self.notes],
            "tags": list(self.tags),
        }

    @classmethod
    def from_metadata(cls, metadata: Any) -> Annotations:
        """Return what a run's metadata on the server says; empty when it says nothing."""
        entry = dict(metadata).get(ANNOTATIONS_KEY) or {}
        return cls(tuple(Note(**note) for note in entry.get("notes", ())), tuple(entry.get("tags", ())))


class NotesCorrupt(CatalogError):
    """A line of a run's notes is damaged.

    Attributes
    ----------
    path : Path
        The file.
    line : int
        Number of the line, counted from 1.
    """

    def __init__(self, path: Path, line: int) -> None:
        self.path = path
        self.line = line
        super().__init__(f"{path}:{line}: damaged line. Restore the file from a backup, or remove the line.")


def annotate(
    data_dir: str | os.PathLike[str],
    uid: str,
    *,
    note: str = "",
    tags: Sequence[str] = (),
    untag: Sequence[str] = (),
    author: str = "",
) -> Annotations:
    """Add a note or tags to a run, or take tags away; return what the run has now.

    It is on the disk when this returns, and in the catalog within about a second while its daemon runs. The run's
    documents stay as they are; so do the additions when the run is written again or the server's part rebuilt.

    Parameters
    ----------
    data_dir : path
        The data directory.
    uid : str
        The run's uid or its beginning.
    note : str
        A remark.
    tags, untag : sequence of str
        Tags to add and to take away.
    author : str
        Who adds it; the user's login name by default.

    Raises
    ------
    UnknownRun
        No run, or more than one, has this uid.
    ValueError
        A tag is empty or has blanks around it, or there is nothing to add.
    CatalogTimeout
        Somebody else has held the file for half a minute; nothing is stored.
    """
    for tag in (*tags, *untag):
        if not tag.strip() or tag != tag.strip() or "\n" in tag:
            raise ValueError(f"{tag!r} cannot be a tag: give a word or a few, without blanks around them.")
    entries: list[dict[str, Any]] = [{"tag": tag} for tag in tags] + [{"untag": tag} for tag in untag]
    if note.strip():
        entries.append({"note": note.strip()})
    if not entries:
        raise ValueError("Give a note or a tag.")
    directory = DataDirectory.at(data_dir)
    journal = find_journal(directory.root, uid)
    name = journal.name.removesuffix(".gz")
    _pending(directory).mkdir(parents=True, exist_ok=True)
    common = {"time": time.time(), "author": author or _login_name()}
    lines = "".join(json.dumps({**common, **entry}) + "\n" for entry in entries).encode()
    with _locked(directory, _folder(directory) / name) as file:
        _append(file, lines)
        (_pending(directory) / name.removesuffix(".jsonl")).touch()
        sync_folder(_folder(directory))
        file.seek(0)
        return _fold(Path(file.name), file)


def annotations_of(data_dir: str | os.PathLike[str], uid: str) -> Annotations:
    """Return the notes and tags of a run; empty when it has none.

    Parameters
    ----------
    data_dir : path
        The data directory.
    uid : str
        The run's uid or its beginning.

    Raises
    ------
    NotesCorrupt
        A line is damaged.
    UnknownRun
        More than one run is meant, or none whose uid begins so.
    """
    directory = DataDirectory.at(data_dir)
    with directory.access():
        path = _folder(directory) / f"{quote(uid, safe='')}.jsonl"
        if not path.exists():
            path = path.with_name(f"{quote(uid_of_journal(find_journal(directory.root, uid)), safe='')}.jsonl")
        try:
            with open(path, "rb") as file:
                return _fold(path, file)
        except FileNotFoundError:
            return Annotations()


def annotated_runs(data_dir: str | os.PathLike[str]) -> list[str]:
    """Return the uids of the runs that have notes or tags."""
    folder = _folder(DataDirectory.at(data_dir))
    return sorted(unquote(path.name.removesuffix(".jsonl")) for path in folder.glob("*.jsonl"))


def wait_annotated(data_dir: str | os.PathLike[str], timeout: float = 5.0) -> bool:
    """Wait until the catalog has the notes of all delivered runs; False when it has not in time.

    Parameters
    ----------
    data_dir : path
        The data directory; its daemon runs.
    timeout : float
        Seconds to wait.
    """
    directory = DataDirectory.at(data_dir)
    deadline = time.monotonic() + timeout
    while any(directory.delivered_journal_of(uid) is not None for uid in _pending_uids(directory)):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True


def mark_for_mirror(directory: DataDirectory, uid: str) -> None:
    """Have a run's notes brought into the catalog, which has written the run anew; nothing if it has none."""
    if (_folder(directory) / f"{quote(uid, safe='')}.jsonl").exists():
        _pending(directory).mkdir(exist_ok=True)
        (_pending(directory) / quote(uid, safe="")).touch()


def mirror_notes(directory: DataDirectory, runs: Any) -> None:
    """Bring notes into the catalog that are marked for it; called by the daemon alone.

    What cannot be brought now, because the run is not in the catalog or its notes are being written or damaged,
    keeps its mark and is tried again.

    Parameters
    ----------
    directory : DataDirectory
        The data directory.
    runs : CatalogOfBlueskyRuns
        Client of the container of runs.
    """
    for uid in _pending_uids(directory):
        mark = _pending(directory) / quote(uid, safe="")
        path = _folder(directory) / f"{quote(uid, safe='')}.jsonl"
        if not path.exists():
            mark.unlink(missing_ok=True)
            continue
        # Under the lock, so that what is added meanwhile is marked again after the mark is gone.
        with contextlib.suppress(CatalogTimeout, NotesCorrupt), _locked(directory, path, patience=0.0) as file:
            annotations = _fold(path, file)
            if uid in runs:
                runs[uid].update_metadata({ANNOTATIONS_KEY: annotations.as_metadata()}, drop_revision=True)
                mark.unlink(missing_ok=True)


def _folder(directory: DataDirectory) -> Path:
    return directory.root / "notes"


def _pending(directory: DataDirectory) -> Path:
    """Return the folder of marks: a run named here has notes that the catalog has not."""
    return _folder(directory) / "pending"


def _pending_uids(directory: DataDirectory) -> list[str]:
    try:
        return [unquote(name) for name in os.listdir(_pending(directory))]
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def _locked(directory: DataDirectory, path: Path, patience: float = LOCK_PATIENCE_S) -> Iterator[IO[bytes]]:
    """Open the notes of a run, alone."""
    with open(path, "a+b") as file:
        began = time.monotonic()
        while not lock_descriptor(file.fileno()):
            if (waited := time.monotonic() - began) >= patience:
                raise CatalogTimeout(
                    directory.root, f"{path} is held by another program; nothing was added. Try again.", waited
                )
            time.sleep(POLL_INTERVAL_S)
        file.seek(0)
        yield file


def _append(file: IO[bytes], lines: bytes) -> None:
    """Append whole lines; the rest of a line that a killed writer left is cut off."""
    content = file.read()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        file.truncate(whole)
    try:
        file.write(lines)
        file.flush()
        sync_descriptor(file.fileno())
    except OSError:
        os.ftruncate(file.fileno(), whole)
        raise


def _fold(path: Path, file: IO[bytes]) -> Annotations:
    notes: list[Note] = []
    tags: set[str] = set()
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):
            break  # torn by a kill
        try:
            entry = json.loads(line)
            if "note" in entry:
                notes.append(Note(float(entry["time"]), str(entry["author"]), str(entry["note"])))
            elif "tag" in entry:
                tags.add(str(entry["tag"]))
            else:
                tags.discard(str(entry["untag"]))
        except (ValueError, KeyError, TypeError) as error:
            raise NotesCorrupt(path, number) from error
    return Annotations(tuple(notes), tuple(sorted(tags)))


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return str(os.getuid())
