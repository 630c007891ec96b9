"""Threads and tasks that take part in a test and hand back what happened to them."""

import threading
from collections.abc import Callable
from typing import Any

from coexistence import Arbiter


class Person(threading.Thread):
    """A thread that does one thing; ``result()`` waits for it and returns or raises what it did."""

    def __init__(self, deed: Callable[..., Any], *args: Any) -> None:
        super().__init__(name=getattr(deed, "__name__", "person"), daemon=True)
        self._deed = deed
        self._args = args
        self._value: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._value = self._deed(*self._args)
        except BaseException as error:
            self._error = error

    def result(self, timeout: float = 10.0) -> Any:
        self.join(timeout)
        assert not self.is_alive(), f"{self.name} did not end within {timeout} s"
        if self._error is not None:
            raise self._error
        return self._value


class Holder:
    """A thread that holds an arbiter or a port until told to let go."""

    def __init__(self, acquired: Any) -> None:
        self._acquired = acquired
        self._let_go = threading.Event()
        self._has_it = threading.Event()
        self.person = Person(self._hold)
        assert self._has_it.wait(5.0), "the holder did not get the wire"

    def _hold(self) -> None:
        with self._acquired:
            self._has_it.set()
            assert self._let_go.wait(30.0)

    def let_go(self) -> None:
        self._let_go.set()

    def __enter__(self) -> "Holder":
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()
        self.person.result()


def in_line(arbiter: Arbiter) -> list[str]:
    """Return the owners that wait, in order."""
    return [hold.owner for hold in arbiter.queue]
