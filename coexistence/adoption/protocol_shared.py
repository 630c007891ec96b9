"""pyserial's handler for ``shared://`` URLs; pyserial looks for a module of this name.

``serial.serial_for_url("shared:///dev/ttyUSB0?owner=legacy")`` works on the port that this process has open for
sharing under that path, a symlink to it, its USB identity or its last path element (``shared://ttyUSB0``). After the
question mark, beside ``owner``, stand the times of :class:`LeaseRules` in seconds: ``quiet_time=0.3``.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote

import serial

from coexistence.adoption.rules import LeaseRules, rules_of
from coexistence.adoption.serial_facade import SharedSerial
from coexistence.errors import ConfigError, Problem

SCHEME = "shared://"
_TIMES = ("quiet_time", "reply_time", "longest", "acquire_timeout")


class Serial(SharedSerial):
    """A shared port that is named by a URL."""

    @property
    def port(self) -> Any:
        """The name after ``shared://``."""
        return serial.Serial.port.fget(self)

    @port.setter
    def port(self, url: str | None) -> None:
        if isinstance(url, str):
            name, owner, rules = parse(url)
            self._owner, self._rules = owner or self._owner, rules
            url = name
        serial.Serial.port.fset(self, url)


def parse(url: str) -> tuple[str, str, LeaseRules]:
    """Return the port's name, the owner (empty: not given) and the lease rules in a ``shared://`` URL.

    Raises
    ------
    ConfigError
        Something in it is not understood; it is a ``ValueError``.
    """
    rest = url[len(SCHEME) :] if url.lower().startswith(SCHEME) else url
    name, _, query = rest.partition("?")
    owner = ""
    times: dict[str, object] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key == "owner":
            owner = value
        elif key in _TIMES:
            try:
                times[key] = float(value)
            except ValueError:
                raise ConfigError(Problem(f"{url!r}: {key} must be a number of seconds, not {value!r}")) from None
        else:
            raise ConfigError(Problem(f"{url!r}: {key!r} is not understood", f"known: owner, {', '.join(_TIMES)}"))
    if not name:
        raise ConfigError(Problem(f"{url!r} names no port", "write shared:///dev/ttyUSB0?owner=legacy"))
    return unquote(name), owner, rules_of(None, times)
