"""Fields: what each value of an instrument is called, means, and how it is asked for and set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from devices.protocols.conversation import Conversation, Stamped
from devices.protocols.errors import ValueRefused

T = TypeVar("T", bool, int, float, str)


@dataclass(frozen=True, kw_only=True)
class Field(Generic[T]):
    """One value of an instrument, the same for both generations.

    Parameters
    ----------
    name
        Name of the signal; columns are called ``<device>_<name>``.
    datatype
        ``bool``, ``int``, ``float`` or ``str``; an array of numpy's where there is a ``shape``.
    command
        The command as the manual writes it; it stands in the signal's source.
    get
        Starts the conversation that reads the value. None for what can only be set.
    put
        Starts the conversation that sets the value and returns what the instrument then reports. None for what
        can only be read.
    settle
        Starts the conversation that tells whether a set has taken effect; it ends with NotReady until then.
    units
        Units of the value, fixed whatever the instrument displays.
    precision
        Digits after the decimal point worth showing.
    limits
        Lowest and highest value that may be set, both allowed.
    remembered
        For what the instrument cannot tell, only what has become of it: whether what was set last still stands, given
        what ``get`` says now, which takes its place otherwise.
    choices
        The values that may be set, when there are only a few.
    shape
        Of an array of 64 bit floats, which can only be read; empty for a single value.
    """

    name: str
    datatype: type[T]
    command: str
    instrument: str
    get: Callable[[], Conversation[Stamped[T]]] | None = None
    put: Callable[[T], Conversation[Stamped[T]]] | None = None
    settle: Callable[[T], Conversation[Stamped[T]]] | None = None
    units: str | None = None
    precision: int | None = None
    limits: tuple[float, float] | None = None
    choices: tuple[T, ...] = ()
    remembered: Callable[[T, T], bool] | None = None
    shape: tuple[int, ...] = ()

    def check(self, value: Any) -> T:
        """Return the value in the field's type.

        Raises
        ------
        ValueRefused
            When it is of another kind, not finite, or outside of what is allowed.
        """
        converted = self._converted(value)
        if self.choices and converted not in self.choices:
            raise self._refused(value, "one of " + ", ".join(repr(choice) for choice in self.choices))
        if self.limits is not None and not isinstance(converted, str):
            low, high = self.limits
            if not low <= converted <= high:
                raise self._refused(value, f"{low:g} to {high:g} {self.units or ''}".rstrip())
        return converted

    def _converted(self, value: Any) -> T:
        if isinstance(value, str) != (self.datatype is str):
            raise self._refused(value, f"a value of type {self.datatype.__name__}")
        try:
            converted = self.datatype(value)
        except (TypeError, ValueError, OverflowError):
            raise self._refused(value, f"a value of type {self.datatype.__name__}") from None
        same = converted == value
        if not isinstance(same, str) and self.datatype is not str and not bool(same):
            raise self._refused(value, f"a finite value of type {self.datatype.__name__}")
        if isinstance(converted, float) and not abs(converted) < float("inf"):
            raise self._refused(value, "a finite number")
        return converted

    def _refused(self, value: object, allowed: str) -> ValueRefused:
        return ValueRefused(self.name, value, allowed, instrument=self.instrument)


class Fields(Mapping[str, Field[Any]]):
    """The fields of one instrument by name."""

    def __init__(self, *fields: Field[Any]) -> None:
        self._fields = {field.name: field for field in fields}

    def __getitem__(self, name: str) -> Field[Any]:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)
