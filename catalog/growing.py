"""Reading runs that go on: a client's picture of a column is of a moment, and the column grows or changes its form.

tiled tells a client how long an array is and of what type, and the client takes what it is sent for that: it fails when
an event has been added meanwhile, and takes other numbers for its own when the array has been written again in another
form (see `catalog.columns`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Self

import httpx
from tiled.client.array import ArrayClient, DaskArrayClient
from tiled.client.base import BaseClient
from tiled.client.constructors import from_context
from tiled.client.utils import ClientError, client_for_item
from tiled.ndslice import NDSlice
from tiled.structures.core import StructureFamily

from .errors import ColumnReplaced
from .rewriting import data_directory_of, undelivered_run

ATTEMPTS = 10
"""How often what has changed while it was read is read again; each time needs an event that fits no earlier form."""

PAUSE_S = 0.1
"""How long to wait, as often, for a column that is announced and may be written in this moment."""

REFUSALS = (httpx.HTTPStatusError, KeyError, ValueError)
"""What reading ends with when what is read has gone or changed."""


def may_change(client: Any) -> bool:
    """Tell whether what a client reads belongs to a run that goes on or is not delivered yet."""
    return _undelivered_run_of(client) is not None


def _undelivered_run_of(client: Any) -> str | None:
    directory = data_directory_of(client.context.http_client)
    return None if directory is None else undelivered_run(directory, client.path_parts)


class GrowingColumn(BaseClient):  # type: ignore[misc]
    """Part of a column's client: what was read is what the client takes it for, or there is an error.

    Attributes
    ----------
    follows : bool
        Whether a column that has changed its form meanwhile is read in the new one.
    """

    def __init__(self, context: Any, **options: Any) -> None:
        super().__init__(context, **options)
        self.follows = True
        self._run = _undelivered_run_of(self)
        self._may_change = self._run is not None

    def _checked(self, read: Callable[[], Any]) -> Any:
        if not self._may_change:
            return read()
        try:
            found = read()
        except REFUSALS:
            self._compare_form()
            raise
        self._compare_form()
        return found

    def _compare_form(self) -> None:
        """Make sure that the column still has the form in which it was looked up.

        Raises
        ------
        ColumnReplaced
            It has not.
        """
        delivered = not may_change(self)
        now = None
        with contextlib.suppress(ClientError):
            now = self.new_variation().refresh()
        if now is None or form_of(now.item) != form_of(self.item):
            raise ColumnReplaced(str(self._run), self._stream_path[-1], self.path_parts[-1])
        if delivered:
            self._may_change = False

    def _looked_up_again(self) -> Any:
        """Return the column's client as it is now."""
        return from_context(self.context, self.structure_clients, self._stream_path)[self.path_parts[-1]]

    @property
    def _stream_path(self) -> list[str]:
        path: list[str] = self.path_parts
        return path[: path.index(str(self._run)) + 2]


class LazyColumn(GrowingColumn, DaskArrayClient):  # type: ignore[misc]
    """An array, read as a dask array: with the rows that it had when it was looked up."""

    def _get_slice(self, wanted: NDSlice) -> Any:
        if self._may_change and not wanted and self.shape:
            wanted = NDSlice(*map(slice, self.shape))
        return self._checked(lambda: super(LazyColumn, self)._get_slice(wanted))

    def _get_block(self, block: Any, block_slice: Any = None) -> Any:
        return self._checked(lambda: super(LazyColumn, self)._get_block(block, block_slice))


class NumpyColumn(LazyColumn, ArrayClient):  # type: ignore[misc]
    """An array, read into memory: in the form that it has by then."""

    def read(self, slice: Any = None) -> Any:  # noqa: A002 - tiled's name
        """Return the array or a part of it, as a `RaggedColumn` does where arrays have no common shape any more."""
        for _ in range(ATTEMPTS):
            try:
                return super().read(slice)
            except ColumnReplaced:
                if not self.follows:
                    raise
                now = self._looked_up_again()
                if not isinstance(now, NumpyColumn):
                    return now.read(slice)
                self._item, self._structure = now.item, now.structure()
        return super().read(slice)


def form_of(item: dict[str, Any]) -> tuple[Any, ...]:
    """Return what must not have changed of a part of a stream between its being looked up and being read."""
    attributes = item["attributes"]
    structure = attributes["structure"]
    names = ("columns", "arrow_schema", "data_type")
    return attributes["structure_family"], *map(structure.get, names), (structure.get("shape") or [])[1:]


def forms_of(contents: dict[str, Any]) -> dict[str, Any]:
    """Return that of all parts of a stream."""
    return {part: form_of(item) for part, item in contents.items()}


class Picture:
    """The parts of a stream as they were at one moment, which no further request is needed to know.

    Parameters
    ----------
    stream : CompositeClient
        The stream.
    contents : dict
        What the server said of its parts then.
    """

    def __init__(self, stream: Any, contents: dict[str, Any]) -> None:
        self.contents = contents
        self._parts: dict[str, Any] = {
            part: client_for_item(stream.context, stream.structure_clients, item) for part, item in contents.items()
        }
        for client in self._parts.values():
            if isinstance(client, GrowingColumn):
                client.follows = False  # who reads the whole needs another picture then
        self._data_keys = stream.metadata.get("data_keys", {})

    def __getitem__(self, part: str) -> Any:
        """Return the client of a part."""
        return self._parts[part]

    def with_common_rows(self, variables: set[str] | None) -> Self:
        """Leave of each part those events only that all of them have.

        Parameters
        ----------
        variables : set of str or None
            Columns that are to be read, None for all; other parts do not count.
        """
        rows_of_event = {}
        for part, item in self.contents.items():
            structure = item["attributes"]["structure"]
            if variables is None or not variables.isdisjoint(structure.get("columns", [part])):
                rows_of_event[part] = _rows_of_event(structure, self._data_keys.get(part, {}))
        events = {part: _rows(self._parts[part]) // count for part, count in rows_of_event.items() if count}
        if len(events) > 1:
            for part in events:
                self._parts[part] = _FirstRows(self._parts[part], min(events.values()) * rows_of_event[part])
        return self


def _rows(client: Any) -> int:
    if client.structure_family == StructureFamily.table:
        return len(client.read_partition(0, client.columns[:1]))
    return int(client.structure().shape[0])


def _rows_of_event(structure: dict[str, Any], data_key: dict[str, Any]) -> int:
    """Return how many rows a part has for each event; 0 when its rows are no events'."""
    if "columns" in structure:
        return 1
    shape, of_event = structure.get("shape"), data_key.get("shape") or []
    if not shape:
        return 0
    # Files count frames along one axis.
    return of_event[0] or 0 if "external" in data_key and len(shape) == len(of_event) else 1


class _FirstRows:
    """A client of a part that reads only so many of its rows."""

    def __init__(self, client: Any, rows: int) -> None:
        self._client = client
        self._rows = rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def read(self, *columns: Any) -> Any:
        found = self._client.read(*columns)
        if columns and hasattr(found, "compute"):
            found = found.compute()  # rows of a dask table have no numbers
        return found[: self._rows]
