"""What can go wrong with a runtime and the instruments it runs."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from coexistence.errors import CoexistenceError
from coexistence.runtime.states import RuntimeState


class ConnectTimeout(CoexistenceError, TimeoutError):
    """An instrument did not start within its time limit (s), and did not say why."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        super().__init__(f"it did not connect within {limit:g} s. Check that it is on, or raise its connect_timeout.")


class StopTimeout(CoexistenceError, TimeoutError):
    """An instrument did not stop within its time limit (s); ``thread`` names the thread that is left behind."""

    def __init__(self, limit: float, thread: str = "") -> None:
        self.limit = limit
        self.thread = thread
        left = f" Its thread {thread!r} is left behind." if thread else ""
        super().__init__(f"it did not stop within {limit:g} s.{left}")


class HealthTimeout(CoexistenceError, TimeoutError):
    """An instrument did not say how it is within the time limit (s)."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        super().__init__(
            f"it did not say how it is within {limit:g} s. Restart it, or look at who holds its wire for so long."
        )


class WrongState(CoexistenceError, RuntimeError):
    """The runtime cannot do this in the state it is in."""

    def __init__(self, what: str, state: RuntimeState, remedy: str) -> None:
        self.what = what
        self.state = state
        self.remedy = remedy
        super().__init__(f"cannot {what} while the runtime is {state.value}. {remedy}")


class UnknownName(CoexistenceError, KeyError):
    """There is neither an instrument nor a generation of this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = tuple(known)
        close = get_close_matches(name, self.known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(self.known) or 'none'}"
        self.message = f"no instrument and no generation is called {name!r}; {hint}"
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message
