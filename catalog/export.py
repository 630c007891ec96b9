"""Write a run into one file for other programs: CSV, Parquet, HDF5/NeXus, or its exact documents as JSON lines."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .encoding import encode
from .errors import ExportError, UnknownRun
from .notes import Annotations, annotations_of
from .recorded import RecordedRun, Stream, recorded_run

ExportFormat = Literal["csv", "parquet", "nexus", "jsonl"]

FORMATS: dict[str, ExportFormat] = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".h5": "nexus",
    ".hdf5": "nexus",
    ".nxs": "nexus",
    ".jsonl": "jsonl",
}
"""Format by the ending of the file's name."""


@dataclass
class ExportReport:
    """What an export has written.

    Attributes
    ----------
    files : list of Path
        The files.
    rows : int
        Events written; documents for JSON lines.
    left_out : dict
        Columns that the format cannot hold, with the reason.
    """

    files: list[Path]
    rows: int = 0
    left_out: dict[str, str] = field(default_factory=dict)


def export_run(
    data_dir: str | os.PathLike[str],
    uid: str,
    target: str | os.PathLike[str],
    *,
    format: ExportFormat | None = None,  # noqa: A002 - the word users look for
    stream: str = "primary",
    run: Any = None,
) -> ExportReport:
    """Write a run into a new file; it appears when it is complete.

    Memory stays bounded however long the run is. Images in files of cameras come through the catalog's server, a
    few frames at a time, and into HDF5 only; everything else comes from the journal, which needs no server.

    Parameters
    ----------
    data_dir : path
        The data directory.
    uid : str
        The run's uid or its beginning.
    target : path
        The file; its ending tells the format: .csv, .parquet, .h5 or .nxs, .jsonl.
    format : str, optional
        The format, when the ending is another.
    stream : str
        The stream that CSV and Parquet, which hold one table, are to have; the others hold all.
    run : BlueskyRun, optional
        The run's client, when the catalog is open already.

    Raises
    ------
    ExportError
        The file exists, its folder does not, the format is unknown, or the run has no such stream.
    UnknownRun
        No run, or more than one, has this uid.
    JournalCorrupt
        The journal is damaged.
    """
    target = Path(target).expanduser()
    chosen = format or FORMATS.get(target.suffix.lower())
    if format is not None and format not in FORMATS.values():
        known = ", ".join(dict.fromkeys(FORMATS.values()))
        raise ExportError(target, f"'{format}' is no format of a file: give {known}.")
    if chosen is None:
        raise ExportError(target, f"'{target.name}' tells no format: let it end in {', '.join(FORMATS)}.")
    recorded = recorded_run(data_dir, uid, run)
    report = ExportReport([target])
    table = None
    if chosen in ("csv", "parquet"):
        if (table := recorded.streams.get(stream)) is None:
            known = ", ".join(recorded.streams) or "none"
            raise ExportError(target, f"Run {recorded.uid} has no stream '{stream}'. It has: {known}.")
        if chosen == "csv":
            report.files.append(target.with_suffix(".json"))
    needs_server = chosen == "nexus" and any(
        column.external for each in recorded.streams.values() for column in each.columns.values()
    )
    if needs_server and run is None:
        from .client import open_catalog, wait_delivered

        if recorded.stop:
            wait_delivered(data_dir, recorded.uid)
        run = open_catalog(data_dir)[recorded.uid]
    with _new_files(report.files) as drafts:
        if chosen == "jsonl":
            report.rows = _write_documents(recorded, drafts[0])
        elif chosen == "nexus":
            from .export_nexus import write_nexus

            annotations = Annotations()
            with contextlib.suppress(UnknownRun):  # of a common server, measured from elsewhere
                annotations = annotations_of(data_dir, recorded.uid)
            write_nexus(recorded, drafts[0], file_name=target.name, run=run, annotations=annotations)
            report.rows = sum(each.rows for each in recorded.streams.values())
        else:
            assert table is not None
            report.left_out = _write_table(chosen, recorded, table, drafts)
            report.rows = table.rows
    return report


def _write_documents(recorded: RecordedRun, path: Path) -> int:
    count = 0
    with open(path, "wb") as file:
        for name, document in recorded.documents():
            file.write(encode(name, document))
            count += 1
    return count


def _write_table(chosen: ExportFormat, recorded: RecordedRun, stream: Stream, drafts: list[Path]) -> dict[str, str]:
    from .export_table import write_csv, write_parquet

    if chosen == "csv":
        return write_csv(recorded, stream, *drafts)
    return write_parquet(recorded, stream, *drafts)


@contextlib.contextmanager
def _new_files(targets: list[Path]) -> Iterator[list[Path]]:
    """Claim names of files that must not exist; give drafts that take the names when all went well."""
    claimed: list[Path] = []
    drafts = [target.with_name(f".{target.name}.{os.getpid()}.part") for target in targets]
    try:
        for target in targets:
            try:
                os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            except FileExistsError:
                raise ExportError(target, f"{target} exists already; remove it or give another name.") from None
            except FileNotFoundError as error:
                if target.parent.is_dir():  # as in /proc, where nobody makes files
                    raise ExportError(target, f"{target} cannot be written there.") from error
                message = f"There is no folder {target.parent.absolute()}: create it or give another."
                raise ExportError(target, message) from None
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise ExportError(target, f"{target} cannot be written: {reason}.") from error
            claimed.append(target)
        yield drafts
        for draft, target in zip(drafts, targets, strict=True):
            draft.replace(target)
        claimed.clear()
    finally:
        for path in (*claimed, *drafts):
            with contextlib.suppress(OSError, ValueError):  # a name that cannot be has no file
                path.unlink(missing_ok=True)
