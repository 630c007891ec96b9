"""What can go wrong between a document and its place in the catalog."""

from __future__ import annotations

import os
from pathlib import Path


class CatalogError(Exception):
    """Base of every error this package raises on its own account."""


class UnrecordableValue(CatalogError, TypeError):
    """A document holds a value that has no exact form in the journal.

    Attributes
    ----------
    where : str
        Path of the value inside the document, for example ``start.sample``.
    value_type : type
        Type of the offending value.
    """

    def __init__(self, where: str, value_type: type) -> None:
        self.where = where
        self.value_type = value_type
        super().__init__(
            f"'{where}' is a {value_type.__module__}.{value_type.__qualname__}, which cannot be recorded. "
            "Use numbers, text, lists, dictionaries or numpy arrays, for example str() of the object."
        )


class JournalError(CatalogError):
    """The journal could not take a document.

    Attributes
    ----------
    path : Path
        The journal, or the folder it should lie in.
    """

    def __init__(self, path: str | os.PathLike[str], message: str) -> None:
        self.path = Path(path)
        super().__init__(message)


class JournalWriteError(JournalError):
    """The system refused to store a document; it is not recorded.

    Attributes
    ----------
    errno : int or None
        The system's error number.
    """

    def __init__(self, path: str | os.PathLike[str], error: OSError) -> None:
        self.errno = error.errno
        super().__init__(
            path,
            f"{path} cannot be written ({error.strerror or error}); the run is not being recorded. "
            "Repair the disk or choose another data directory, then repeat the measurement.",
        )


class DiskFull(JournalWriteError):
    """No space is left for the journal."""

    def __init__(self, path: str | os.PathLike[str], error: OSError) -> None:
        super().__init__(path, error)
        self.args = (
            f"No space is left on the disk of {path}; the run is not being recorded. "
            "Free some space, then resume or repeat the measurement.",
        )


class JournalCorrupt(JournalError):
    """A line of a journal is damaged.

    Attributes
    ----------
    line : int
        Number of the line, counted from 1.
    """

    def __init__(self, path: str | os.PathLike[str], line: int, problem: str) -> None:
        self.line = line
        super().__init__(path, f"{path}:{line}: damaged journal line ({problem}). Restore the file from a backup.")


class UnknownRun(CatalogError, KeyError):
    """No run with this uid is in the data directory.

    Attributes
    ----------
    uid : str
        The uid, or its beginning, that was asked for.
    matches : list of str
        The uids it may stand for, when there is more than one.
    """

    def __init__(self, uid: str, data_dir: str | os.PathLike[str], matches: list[str] | None = None) -> None:
        self.uid = uid
        self.matches = matches or []
        if self.matches:
            self.message = (
                f"'{uid}' is the beginning of {len(self.matches)} runs in {data_dir}: "
                f"{', '.join(self.matches[:3])}{', …' if len(self.matches) > 3 else ''}. Give more characters."
            )
        else:
            self.message = f"There is no run '{uid}' in {data_dir}."
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class UnknownPart(CatalogError, KeyError):
    """A run has no stream, or a stream no column, of this name.

    Attributes
    ----------
    name : str
        What was asked for.
    known : list of str
        What there is.
    """

    def __init__(self, whole: str, part: str, name: str, known: list[str]) -> None:
        self.name = name
        self.known = known
        self.message = f"{whole} has no {part} '{name}'. It has: {', '.join(known) or 'none'}."
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class ColumnReplaced(CatalogError):
    """What is held of a column of a run that goes on is no more: a later event needed another form.

    Attributes
    ----------
    run : str
        Uid of the run.
    stream, column : str
        Where in it.
    """

    def __init__(self, run: str, stream: str, column: str) -> None:
        self.run = run
        self.stream = stream
        self.column = column
        super().__init__(
            f"Column '{column}' of stream '{stream}' of run {run[:8]} has been written in another form since it was "
            "looked up, as a later event did not fit: take it from the stream again."
        )


class BadSearch(CatalogError, ValueError):
    """What is to be searched for cannot be asked for in this way."""


class DataDirectoryError(CatalogError):
    """The data directory cannot be used.

    Attributes
    ----------
    path : Path
        The data directory, or the part of it that is in the way.
    """

    def __init__(self, path: str | os.PathLike[str], message: str) -> None:
        self.path = Path(path)
        super().__init__(message)


class NoCatalog(DataDirectoryError):
    """There is no catalog at this place."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        place = Path(path).absolute()
        others = sorted(each.parent.name for each in place.parent.glob("*/journal") if each.parent != place)
        there = f" Beside it there is {', '.join(others)}." if others else ""
        super().__init__(
            path,
            f"There is no catalog in {place}. Give the data directory that a session has written to.{there}",
        )


class CatalogUnavailable(CatalogError):
    """The catalog's server does not answer.

    Attributes
    ----------
    data_dir : Path
        The data directory it serves.
    log : str
        The last lines of the log, when there are any.
    """

    def __init__(self, data_dir: str | os.PathLike[str], message: str, log: str = "") -> None:
        self.data_dir = Path(data_dir)
        self.log = log
        super().__init__(message + (f"\nThe log ends with:\n{log}" if log else ""))


class CatalogStartFailed(CatalogUnavailable):
    """The catalog's server ended before it could serve."""


class CatalogRefuses(CatalogUnavailable):
    """The catalog's server answers, but takes no runs.

    Attributes
    ----------
    problem : str
        What it says.
    """

    def __init__(self, data_dir: str | os.PathLike[str], problem: str) -> None:
        self.problem = problem
        super().__init__(
            data_dir,
            f"The catalog's server takes no runs at present: {problem} Runs are recorded and will be delivered as soon "
            "as it does.",
        )


class CatalogTimeout(CatalogUnavailable, TimeoutError):
    """The catalog was not ready in time.

    Attributes
    ----------
    waited : float
        Seconds spent waiting.
    """

    def __init__(self, data_dir: str | os.PathLike[str], message: str, waited: float, log: str = "") -> None:
        self.waited = waited
        super().__init__(data_dir, message, log)


class KeyRejected(CatalogUnavailable):
    """The server does not accept the key.

    Attributes
    ----------
    key_place : str
        Where the key was taken from.
    """

    def __init__(self, data_dir: str | os.PathLike[str], key_place: str, remedy: str) -> None:
        self.key_place = key_place
        super().__init__(data_dir, f"The catalog's server does not accept the key in {key_place}. {remedy}")


class DeliveryFailed(CatalogError):
    """A run cannot be moved into the catalog; its journal is kept.

    Attributes
    ----------
    uid : str
        The run.
    reason : str
        What the catalog said.
    """

    def __init__(self, uid: str, reason: str) -> None:
        self.uid = uid
        self.reason = reason
        super().__init__(
            f"Run {uid} could not be moved into the catalog: {reason} Its journal is complete and kept; "
            "delivery is tried again when the catalog starts next."
        )


class UnsupportedPlatform(CatalogError, OSError):
    """The system lacks what recording needs."""


class ExportError(CatalogError):
    """A run cannot be exported as asked; nothing was written.

    Attributes
    ----------
    target : Path
        The file that was to be written.
    """

    def __init__(self, target: str | os.PathLike[str], message: str) -> None:
        self.target = Path(target)
        super().__init__(message)
