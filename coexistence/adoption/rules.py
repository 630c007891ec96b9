"""When a lease ends: how long an unmodified driver keeps the wire."""

from __future__ import annotations

from dataclasses import dataclass

from coexistence.errors import ConfigError, Problem, checked
from coexistence.hold import Rank
from coexistence.line_settings import check_terminator, check_timeout
from coexistence.transport import Accept


@dataclass(frozen=True, kw_only=True)
class LeaseRules:
    """How long a driver that knows nothing of others keeps the wire after it has written something.

    All times are in seconds. While the machine stands still and nothing watches the wire, they do not run; ``longest``
    does.

    Raises
    ------
    ConfigError
        With every value that cannot be right.
    """

    quiet_time: float = 0.1
    """A lease ends when the driver does not read and nothing has moved on the wire for this long; longer for drivers
    that sleep longer between writing and reading."""
    reply_time: float = 0.5
    """A driver that waits in a read keeps the wire for this long after the last byte; it can go on waiting without
    the wire."""
    longest: float = 10.0
    """No lease lasts longer than this, whatever moves on the wire."""
    acquire_timeout: float = 2.0
    """How long a write without a time limit of its own waits for the wire."""
    terminator: bytes | None = None
    """Ends a reply, and with it the lease. Default: the port's; empty where several lines are one reply."""
    accept: Accept | None = None
    """Tells whether a line (without terminator) is for this driver, for buses where replies carry an address. Other
    lines go to others, and the driver keeps the wire no longer than ``quiet_time`` while it waits for its own."""
    rank: Rank = Rank.NORMAL
    """Which line its writes wait in."""

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        for name in ("quiet_time", "reply_time", "longest", "acquire_timeout"):
            problems += check_timeout(name, getattr(self, name))
        if self.terminator is not None:
            problems += check_terminator(self.terminator)
        if self.accept is not None and not callable(self.accept):
            problems.append(Problem(f"accept must be a function of one line, not {self.accept!r}", "or leave it out"))
        checked(*problems)


def rules_of(rules: LeaseRules | None, changes: dict[str, object]) -> LeaseRules:
    """Return the rules with some of their values changed by name.

    Raises
    ------
    ConfigError
        There is no such rule, or its value cannot be right.
    """
    known = LeaseRules.__dataclass_fields__
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise ConfigError(
            *(Problem(f"there is no lease rule {name!r}", f"rules: {', '.join(known)}") for name in unknown)
        )
    present = {} if rules is None else {name: getattr(rules, name) for name in known}
    return LeaseRules(**{**present, **changes})
