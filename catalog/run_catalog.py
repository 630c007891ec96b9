"""The catalog, its runs and their streams as users hold them: bluesky's own, with errors that name what there is."""

from __future__ import annotations

import time
from typing import Any

from bluesky_tiled_plugins import CatalogOfBlueskyRuns
from bluesky_tiled_plugins.clients.bluesky_event_stream import BlueskyEventStream, BlueskyEventStreamV3
from bluesky_tiled_plugins.clients.bluesky_run import BlueskyRun, BlueskyRunV3

from .errors import ColumnReplaced, UnknownPart, UnknownRun
from .growing import ATTEMPTS, PAUSE_S, REFUSALS, Picture, forms_of, may_change
from .query import search_runs
from .rewriting import data_directory_of

CANDIDATES_SHOWN = 5
LARGEST_SCAN_ID = 2**53
"""The server's JSON has no larger integers."""


class Stream(BlueskyEventStreamV3):  # type: ignore[misc]
    """Bluesky's stream, which tells what columns it has when asked for another, and can be read while it grows."""

    _picture: Picture | None = None
    _contents: dict[str, Any] | None = None

    def __new__(cls, context: Any, *, item: Any, structure_clients: Any, **options: Any) -> Any:
        """Return a stream of the version that the server has."""
        if cls._is_sql(item):
            return super().__new__(cls, context, item=item, structure_clients=structure_clients, **options)
        return BlueskyEventStream(context, item=item, structure_clients=structure_clients, **options)

    def __getitem__(self, key: Any, *rest: Any) -> Any:
        """Return a column.

        Raises
        ------
        UnknownPart
            There is none of this name.
        """
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                return super().__getitem__(key, *rest)
            except UnknownPart:
                raise
            except KeyError:
                if not attempts_left or not isinstance(key, str) or self._lacks([key]):
                    raise self._unknown(key) from None
        raise AssertionError("the last attempt returns or raises")

    def _lacks(self, names: list[Any]) -> list[Any]:
        """Return which columns there are not, once those have come that are just being written for the first time."""
        for attempts_left in reversed(range(ATTEMPTS)):
            there = set(self)
            lacking = [name for name in names if isinstance(name, str) and name not in there]
            announced = self.metadata.get("data_keys", {}).keys() & set(lacking)
            if not announced or not attempts_left or not may_change(self):
                break
            time.sleep(PAUSE_S)
        return lacking

    @property
    def base(self) -> Any:
        """The parts in which the columns are kept."""
        return super().base if self._picture is None else self._picture

    def get_contents(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Return what the server says of the parts; of a run that is delivered it is asked once."""
        contents: dict[str, Any] | None = self._contents if self._picture is None else self._picture.contents
        if contents is None or args or options:
            delivered = not may_change(self)
            contents = super().get_contents(*args, **options)
            if delivered and not args and not options:
                self._contents = contents
        return contents

    def read(self, variables: Any = None, dim0: str | None = None) -> Any:
        """Return columns, all by default, as one dataset: in the order of the descriptor, with their units.

        Raises
        ------
        UnknownPart
            There is none of this name.
        """
        if variables is not None:
            variables = [variables] if isinstance(variables, str) else list(variables)
            if lacking := self._lacks(variables):
                raise self._unknown(lacking[0])
        if not may_change(self):
            return self._read(Picture(self, self.get_contents()), variables, dim0)
        named = set(variables) if variables and all(isinstance(name, str) for name in variables) else None
        for attempts_left in reversed(range(ATTEMPTS)):
            contents = self.get_contents()
            try:
                return self._read(Picture(self, contents).with_common_rows(named), variables, dim0)
            except (*REFUSALS, ColumnReplaced):
                if not attempts_left or forms_of(self.get_contents()) == forms_of(contents):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _read(self, picture: Picture, variables: list[Any] | None, dim0: str | None) -> Any:
        stream = self.new_variation()
        stream._picture = picture
        options = {} if variables is None else {"variables": variables}
        return self._described(super(Stream, stream).read(dim0=dim0, **options))

    def _described(self, data: Any) -> Any:
        # tiled reads the columns in the order of a set, another one in each process, and xarray labels with units.
        data_keys = self.metadata.get("data_keys", {})
        data = data[[name for name in data_keys if name in data] + [name for name in data if name not in data_keys]]
        for name in data.data_vars:
            if units := data_keys.get(name, {}).get("units"):
                data[name].attrs["units"] = units
        return data

    def _unknown(self, key: Any) -> UnknownPart:
        known = sorted(name for name in self if not name.startswith("ts_") and name != "seq_num")
        return UnknownPart(f"Stream '{self.item['id']}'", "column", str(key), known)


class Run(BlueskyRunV3):  # type: ignore[misc]
    """Bluesky's run, which tells what streams it has when asked for another."""

    def __new__(cls, context: Any, *, item: Any, structure_clients: Any, **options: Any) -> Any:
        """Return a run of the version that the server has."""
        if cls._is_sql(item):
            return super().__new__(cls, context, item=item, structure_clients=structure_clients, **options)
        return BlueskyRun(context, item=item, structure_clients=structure_clients, **options)

    def __getitem__(self, key: Any) -> Any:
        """Return a stream.

        Raises
        ------
        UnknownPart
            There is none of this name.
        """
        try:
            return super().__getitem__(key)
        except UnknownPart:
            raise
        except KeyError:
            name = key if isinstance(key, str) else "/".join(map(str, key))
            raise UnknownPart(f"Run {self.metadata['start']['uid'][:8]}", "stream", name, list(self)) from None


class RunCatalog(CatalogOfBlueskyRuns):  # type: ignore[misc]
    """Bluesky's catalog of runs, in which ``cat.search(plan="scan", since="yesterday")`` works too."""

    def search(self, query: Any = None, **words: Any) -> RunCatalog:
        """Return the runs that match, as a catalog that can be searched further.

        Parameters
        ----------
        query
            A query of tiled or bluesky: ``Key("plan_name") == "scan"``, ``TimeRange(...)``, ``FullText(...)``; or words
            that stand anywhere in the run's metadata.
        **words
            What `catalog.search_runs` takes: plan, device, sample, since, tags, ….
        """
        if isinstance(query, str):
            query, words = None, {"text": query, **words}
        found: RunCatalog = self if query is None else super().search(query)
        return search_runs(found, **words) if words else found

    def __getitem__(self, key: Any) -> Any:
        """Return a run: by uid or its beginning, scan id, or -1 for the latest; several for a list or for ``[-5:]``.

        Raises
        ------
        UnknownRun
            No run, or more than one, is meant.
        """
        if isinstance(key, slice) and key.stop is key.step is None and isinstance(key.start, int) and key.start < 0:
            return self.values().tail(-key.start)
        if isinstance(key, int) and abs(key) > LARGEST_SCAN_ID:
            raise UnknownRun(str(key), self._place)
        try:
            return super().__getitem__(key)
        except UnknownRun:
            raise
        except (KeyError, IndexError):
            raise UnknownRun(str(key), self._place) from None

    @property
    def _place(self) -> str:
        """Where the runs lie, as people know it: the data directory, or the address when there is none."""
        directory = data_directory_of(self.context.http_client)
        return self.uri if directory is None else str(directory.root)

    def _lookup_by_partial_uid(self, partial_uid: str) -> Any:
        # Letters that mean something to the database's LIKE are in no uid.
        if not partial_uid or set(partial_uid) & set("%_"):
            raise UnknownRun(partial_uid, self._place)
        from tiled.queries import Like

        found = super().search(Like("start.uid", f"{partial_uid}%")).values().head(CANDIDATES_SHOWN)
        if len(found) == 1:
            return found[0]
        raise UnknownRun(partial_uid, self._place, [run.metadata["start"]["uid"] for run in found])
