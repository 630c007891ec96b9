"""Lines that came when nobody held the wire for them, and whose they are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

from coexistence.channel import Channel

if TYPE_CHECKING:
    from coexistence.adoption.lease import Lease


class LostProperty:
    """Gives a channel's stray lines to the leases that ended without an answer, and to those that wait for lines.

    There is one for all leases of a channel.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.RLock()  # a forgotten port may be collected, and closed, by the thread that has it
        self._claims: dict[Lease, float] = {}
        self._waiting: dict[Lease, None] = {}
        self._stop_listening: Callable[[], None] | None = None

    def claim(self, lease: Lease, limit: float) -> None:
        """Let a lease have what comes within ``limit`` seconds."""
        with self._lock:
            self._claims[lease] = perf_counter() + limit
            self._listen()

    def give_up(self, lease: Lease) -> None:
        """End a lease's claim."""
        with self._lock:
            self._claims.pop(lease, None)
            self._leave_off()

    def wait_for_lines(self, lease: Lease) -> None:
        """Let a lease that knows its lines have them until :meth:`stop_waiting`.

        Only one of those who listen has the wire; it gives them what it hears.
        """
        with self._lock:
            self._waiting[lease] = None
            self._listen()

    def stop_waiting(self, lease: Lease) -> None:
        """End what :meth:`wait_for_lines` began."""
        with self._lock:
            self._waiting.pop(lease, None)
            self._leave_off()

    def _listen(self) -> None:
        if self._stop_listening is None:
            self._stop_listening = self._channel.add_stray_listener(self._offer)

    def _leave_off(self) -> None:
        if not self._claims and not self._waiting and self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None

    def claimed(self, lease: Lease) -> bool:
        """Whether a lease still waits for what did not come while it had the wire."""
        return self._claims.get(lease, 0.0) > perf_counter()

    def _open(self) -> list[Lease]:
        """Return those who may have a line now."""
        now = perf_counter()
        claims = [lease for lease, until in tuple(self._claims.items()) if until > now]
        return claims + [lease for lease in tuple(self._waiting) if lease not in claims]

    def others_listen(self, lease: Lease) -> bool:
        """Whether a line that nobody asked for may be for anybody but this lease."""
        if len(self._channel._stray_listeners) > (self._stop_listening is not None):
            return True
        return any(other is not lease for other in self._open())

    def _offer(self, line: bytes, timestamp: float) -> None:  # noqa: ARG002 - a stray listener's signature
        for lease in sorted(self._open(), key=_urgency):
            if lease.take_late(line):
                return


def _urgency(lease: Lease) -> tuple[bool, bool]:
    """Sort those who wait in a read first, then those who did when their lease ended."""
    return not lease.inbox.waiting, not lease.expecting
