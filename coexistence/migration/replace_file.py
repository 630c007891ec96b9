"""Replacing files in one step, and only those nobody else has changed meanwhile."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coexistence.errors import CoexistenceError


class FileChanged(CoexistenceError):
    """A file was changed by somebody else while a new version of it was prepared; nothing was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"{path} was changed by somebody else meanwhile. Nothing was written; look at it and try again."
        )


@dataclass(frozen=True)
class Snapshot:
    """A file as it was read; symbolic links are resolved, so that the file behind them is replaced."""

    path: Path
    content: bytes

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Snapshot:
        """Read a file.

        Raises
        ------
        OSError
            It cannot be read.
        """
        resolved = Path(path).resolve()
        return cls(resolved, resolved.read_bytes())


def replace_files(
    texts: Mapping[Snapshot, str], check: Callable[[Mapping[Path, Path]], object] = lambda _: None
) -> None:
    """Give files new contents: each is replaced in one step, with its permissions, and synced to the disk.

    With several files, each is replaced in one step and one after the other; when one cannot be replaced, those before
    it get their old contents back.

    Parameters
    ----------
    texts
        The new text of each file, by what it was read as.
    check
        Called with the drafts by the paths they are for, before anything is replaced; what it raises is passed on.

    Raises
    ------
    FileChanged
        A file is not what it was when it was read.
    OSError
        A file cannot be written.
    """
    with contextlib.ExitStack() as cleaning:
        drafts = {
            snapshot: cleaning.enter_context(draft_beside(snapshot.path, text.encode()))
            for snapshot, text in texts.items()
        }
        check({snapshot.path: draft for snapshot, draft in drafts.items()})
        for path in sorted(snapshot.path for snapshot in drafts):
            cleaning.enter_context(_locked(path))
        for snapshot in drafts:
            if snapshot.path.read_bytes() != snapshot.content:
                raise FileChanged(snapshot.path)
        _replace_all(list(drafts.items()))


@contextlib.contextmanager
def draft_beside(path: Path, content: bytes) -> Iterator[Path]:
    """Write a new version of a file beside it, synced and with its permissions; removed at the end if still there."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            status = path.stat()
            draft.chmod(status.st_mode & 0o7777)
            # Giving a file away is for administrators; anybody else keeps it under the own name.
            with contextlib.suppress(PermissionError, AttributeError):
                os.chown(draft, status.st_uid, status.st_gid)
        else:
            draft.chmod(0o666 & ~_umask())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep others who replace this file out until it is done; whoever waits sees then that it has changed."""
    try:
        import fcntl  # does not exist on Windows
    except ImportError:
        yield
        return
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _replace_all(drafts: Sequence[tuple[Snapshot, Path]]) -> None:
    replaced: list[Snapshot] = []
    try:
        for snapshot, draft in drafts:
            draft.replace(snapshot.path)
            replaced.append(snapshot)
            _sync_folder(snapshot.path.parent)
    except OSError:
        for snapshot in replaced:
            with draft_beside(snapshot.path, snapshot.content) as old:
                old.replace(snapshot.path)
        raise


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself last; systems that cannot open folders need not."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current
