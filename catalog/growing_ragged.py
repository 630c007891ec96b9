"""Ragged columns of runs that go on, apart from `catalog.growing` because importing what they need takes a while."""

from __future__ import annotations

from typing import Any

from tiled.client.ragged import RaggedClient

from .errors import ColumnReplaced
from .growing import REFUSALS, GrowingColumn


class RaggedColumn(GrowingColumn, RaggedClient):  # type: ignore[misc]
    """Arrays of different shapes; what is sent of them tells its form itself."""

    def read(self, slice: Any = None) -> Any:  # noqa: A002 - tiled's name
        """Return the arrays or a part of them, as text when they have become that."""
        try:
            return super().read(slice)
        except REFUSALS:
            if not self._may_change:
                raise
            try:
                self._compare_form()
            except ColumnReplaced:
                if not self.follows:
                    raise
                return self._looked_up_again().read(slice)
            raise
