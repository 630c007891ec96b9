"""Frames in Zarr arrays, of which bluesky's own writer knows nothing: the first axis counts the frames."""

from __future__ import annotations

from typing import Any

from bluesky_tiled_plugins.writing.consolidators import CONSOLIDATOR_REGISTRY, ConsolidatorBase

ZARR_MIMETYPE = "application/x-zarr"


class ZarrConsolidator(ConsolidatorBase):  # type: ignore[misc]
    """Registers a Zarr array, a directory, as what it is; the server reads it chunk by chunk."""

    supported_mimetypes = frozenset({ZARR_MIMETYPE})

    def __init__(self, stream_resource: Any, descriptor: Any) -> None:
        super().__init__(stream_resource, descriptor)
        for asset in self.assets:
            asset.is_directory = True


CONSOLIDATOR_REGISTRY.setdefault(ZARR_MIMETYPE, ZarrConsolidator)
