"""What a user sees of a running plan: table, peak statistics and plots, and bars for whatever is waited for."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bluesky import RunEngine

if TYPE_CHECKING:
    from bluesky.callbacks.best_effort import BestEffortCallback


class LiveDisplay:
    """bluesky's `BestEffortCallback`, made when it is first used: what it plots with takes a second to import.

    Everything else than showing documents is passed on to it: `peaks`, `disable_table()`, `enable_plots()`, …
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callback: BestEffortCallback | None = None

    def _get(self) -> BestEffortCallback:
        with self._lock:
            if self._callback is None:
                from bluesky.callbacks.best_effort import BestEffortCallback

                self._callback = BestEffortCallback()
                if not has_screen():
                    self._callback.disable_plots()
            return self._callback

    def prepare_later(self, delay_s: float) -> Callable[[], None]:
        """Import what is needed in the background, some time after the prompt is there; returns what prevents it."""
        timer = threading.Timer(delay_s, self._get)
        timer.name, timer.daemon = "prepare display", True
        timer.start()
        return timer.cancel

    def __call__(self, name: str, document: Mapping[str, Any]) -> None:
        """Show a document."""
        self._get()(name, document)

    def __getattr__(self, name: str) -> Any:
        # A prompt asks every object for display methods: that is no use of it.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._get(), name)


def has_screen() -> bool:
    """Tell whether a window or a notebook can show a plot."""
    if "ipykernel" in sys.modules or sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def show_progress(run_engine: RunEngine) -> None:
    """Show a bar for each motion and measurement that a plan waits for."""
    from bluesky.utils import ProgressBarManager

    run_engine.waiting_hook = ProgressBarManager()  # type: ignore[assignment]
