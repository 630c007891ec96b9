"""What a user sees of a running plan: table, peak statistics and plots, and bars for whatever is waited for."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bluesky import RunEngine

if TYPE_CHECKING:
    from bluesky.callbacks.best_effort import BestEffortCallback


class LiveDisplay:
    """bluesky's `BestEffortCallback`, made when it is first needed: what it plots with takes a second to import."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callback: BestEffortCallback | None = None

    @property
    def callback(self) -> BestEffortCallback:
        """The callback; without a screen it makes no plots."""
        with self._lock:
            if self._callback is None:
                from bluesky.callbacks.best_effort import BestEffortCallback

                self._callback = BestEffortCallback()
                if not has_screen():
                    self._callback.disable_plots()
            return self._callback

    def prepare(self) -> None:
        """Begin to import what is needed, in the background."""
        threading.Thread(target=lambda: self.callback, name="prepare display", daemon=True).start()

    def __call__(self, name: str, document: Mapping[str, Any]) -> None:
        """Show a document."""
        self.callback(name, document)


def has_screen() -> bool:
    """Tell whether a window or a notebook can show a plot."""
    if "ipykernel" in sys.modules or sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def show_progress(run_engine: RunEngine) -> None:
    """Show a bar for each motion and measurement that a plan waits for."""
    from bluesky.utils import ProgressBarManager

    run_engine.waiting_hook = ProgressBarManager()  # type: ignore[assignment]
