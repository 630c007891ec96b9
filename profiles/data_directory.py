"""Where runs are when nothing else is said, and how long commands wait for their catalog."""

from __future__ import annotations

from pathlib import Path

DEFAULT_DATA_DIRECTORY = Path("tandem-data")
CATALOG_WAIT_S = 60.0
