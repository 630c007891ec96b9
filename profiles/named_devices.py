"""The devices of a session by name: `devices["power"]`, `devices.power`, and with tab completion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


class Devices(Mapping[str, Any]):
    """Connected devices by their id; asking for one that failed to connect tells why it failed.

    It always has what is connected now: an instrument that was restarted because it hung has another device.
    """

    def __init__(self) -> None:
        self._connected: Mapping[str, Any] = {}
        self._failures: Mapping[str, object] = {}
        self._connecting: frozenset[str] = frozenset()

    def _replace(self, connected: Mapping[str, Any], failures: Mapping[str, object], connecting: Iterable[str]) -> None:
        """Have other contents; whoever iterates meanwhile sees the old ones to the end."""
        self._connected, self._failures, self._connecting = connected, failures, frozenset(connecting)

    def __getitem__(self, name: str) -> Any:
        try:
            return self._connected[name]
        except KeyError:
            raise KeyError(self._explain(name)) from None

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            if name in self._connected:
                return self._connected[name]
            raise AttributeError(self._explain(name))
        raise AttributeError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._connected)

    def __len__(self) -> int:
        return len(self._connected)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._connected]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._connected)

    def __repr__(self) -> str:
        lines = [f"{name}: {type(device).__module__}.{type(device).__name__}" for name, device in self.items()]
        lines += [f"still connecting: {name}" for name in sorted(self._connecting)]
        lines += [f"not connected: {reason}" for reason in self._failures.values()]
        return "\n".join(lines) or "no devices"

    def _explain(self, name: str) -> str:
        if name in self._failures:
            return f"not connected: {self._failures[name]}"
        if name in self._connecting:
            return f"{name} is still connecting; session.wait_connected() waits for it"
        return f"no device is called {name!r}; there are: {', '.join(self) or 'none'}"
