"""What the runtime asks of an instrument: to start, to stop, to let go, and to say how it is."""

from __future__ import annotations

from typing import Protocol


class ManagedInstrument(Protocol):
    """What both generations have in common.

    Attributes
    ----------
    name
        Unique among all instruments of the runtime.
    connect_timeout
        Longest time a start may take (s).
    """

    @property
    def name(self) -> str:
        """The instrument's name."""

    @property
    def connect_timeout(self) -> float:
        """Longest time a start may take (s)."""


class BlockingInstrument(ManagedInstrument, Protocol):
    """An instrument whose driver blocks (v2); each call is made on a daemon thread of its own.

    A call that does not return in time is left behind with its thread, and costs nobody else anything.
    """

    def start(self, fresh: bool) -> None:
        """Connect; what it raises is why the instrument failed.

        Parameters
        ----------
        fresh
            The earlier driver hangs or never came up: make a new one instead of connecting it again.
        """

    def stop(self) -> None:
        """Bring what moves to a stand and return when it stands."""

    def close(self) -> None:
        """Let go of everything; after :meth:`stop`, or alone when the instrument failed to start."""

    def health(self) -> str:
        """Return how the instrument is, in a few words; raise what is wrong with it."""


class AsyncInstrument(ManagedInstrument, Protocol):
    """An instrument of an event loop (v4); each coroutine runs on the runtime's loop and is cancelled when late."""

    async def start(self, fresh: bool) -> None:
        """As :meth:`BlockingInstrument.start`. Cancelled: nothing is left on the loop."""

    async def stop(self) -> None:
        """As :meth:`BlockingInstrument.stop`. Cancelled: the stop itself has been sent or is given up."""

    async def close(self) -> None:
        """As :meth:`BlockingInstrument.close`."""

    async def health(self) -> str:
        """As :meth:`BlockingInstrument.health`."""
