"""The catalog as users hold it: bluesky's own, with searches in words and errors that name the candidates."""

from __future__ import annotations

from typing import Any

from bluesky_tiled_plugins import CatalogOfBlueskyRuns

from .errors import UnknownRun
from .query import search_runs
from .rewriting import data_directory_of

CANDIDATES_SHOWN = 5


class RunCatalog(CatalogOfBlueskyRuns):  # type: ignore[misc]
    """Bluesky's catalog of runs, in which ``cat.search(plan="scan", since="yesterday")`` works too."""

    def search(self, query: Any = None, **words: Any) -> RunCatalog:
        """Return the runs that match, as a catalog that can be searched further.

        Parameters
        ----------
        query
            A query of tiled or bluesky: ``Key("plan_name") == "scan"``, ``TimeRange(...)``, ``FullText(...)``.
        **words
            What `catalog.search_runs` takes: plan, device, sample, since, tags, ….
        """
        found: RunCatalog = self if query is None else super().search(query)
        return search_runs(found, **words) if words else found

    def __getitem__(self, key: Any) -> Any:
        """Return a run: by uid or its beginning, scan id, or -1 for the latest; several for a list or slice.

        Raises
        ------
        UnknownRun
            No run, or more than one, is meant.
        """
        try:
            return super().__getitem__(key)
        except UnknownRun:
            raise
        except (KeyError, IndexError):
            raise UnknownRun(str(key), self._place) from None

    @property
    def _place(self) -> str:
        """Where the runs lie, as people know it: the data directory, or the address when there is none."""
        return str(data_directory_of(self.context.http_client) or self.uri)

    def _lookup_by_partial_uid(self, partial_uid: str) -> Any:
        # Letters that mean something to the database's LIKE are in no uid.
        if not partial_uid or set(partial_uid) & set("%_"):
            raise UnknownRun(partial_uid, self._place)
        from tiled.queries import Like

        found = super().search(Like("start.uid", f"{partial_uid}%")).values().head(CANDIDATES_SHOWN)
        if len(found) == 1:
            return found[0]
        raise UnknownRun(partial_uid, self._place, [run.metadata["start"]["uid"] for run in found])
