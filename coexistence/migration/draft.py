"""An instrument on its way from the old form to the new: what is taken from the one and put into the other."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Iterator
from typing import Any

import tomlkit

from coexistence.migration.old_file import Comments, OldInstrument


class NeedsAHand(Exception):
    """An instrument cannot be converted without somebody who knows more; the text says why and what to do."""


class Draft:
    """One new instrument in the making, with what was remarked about it.

    Parameters
    ----------
    instrument_id
        Its id.
    type_name
        Its type in the new form.
    """

    def __init__(self, instrument_id: str, type_name: str) -> None:
        self.id = instrument_id
        self.type = type_name
        self.above: list[str] = []
        self.settings: dict[str, Any] = {}
        self.taken_from: dict[str, str] = {}

    def put(self, key: str, value: Any, taken_from: str = "") -> None:
        """Give it a setting; the comments of the old one go with it."""
        self.settings[key] = value
        if taken_from:
            self.taken_from[key] = taken_from


class Source:
    """What is left to be taken of an old instrument; what nobody takes is kept as comment lines.

    Attributes
    ----------
    remarks
        What the user is told.
    """

    def __init__(self, old: OldInstrument) -> None:
        self.old = old
        self.remarks: list[str] = []
        self._left = dict(old.values)

    @property
    def left(self) -> dict[str, Any]:
        """What nobody has taken."""
        return dict(self._left)

    def take(self, *names: str) -> tuple[str, Any]:
        """Take the first of the settings that is there; return its name and value, or `("", None)`.

        Others of these names say the same thing again and stay, to be remarked when nobody takes them.
        """
        for name in names:
            if name in self._left:
                return name, self._left.pop(name)
        return "", None

    def put_back(self, *names: str) -> None:
        """Leave settings after all that were taken and are of no use."""
        self._left |= {name: self.old.values[name] for name in names if name}

    def remark(self, text: str) -> None:
        """Tell the user something, once."""
        if text not in self.remarks:
            self.remarks.append(text)

    def number(self, *names: str) -> tuple[str, float | None]:
        """Take a number; what is none is named and left out."""
        name, value = self.take(*names)
        if not name:
            return "", None
        if isinstance(value, str):
            text = value.strip().replace("_", "")
            try:
                value = float(text)
            except ValueError:
                value = None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.remark(f"{name} = {self.shown(name)} left out: it is no number")
            return name, None
        return name, value

    def take_comments(self, name: str, index: int) -> list[str]:
        """Take the comment lines of one of the tables in a list, `[[instruments.bus.devices]]` for one."""
        return self.old.inner.pop((name, index), [])

    def shown(self, name: str) -> str:
        """Return a setting of the old file as it is written in TOML."""
        return shown(self.old.values[name])


def shown(value: Any) -> str:
    """Return a value as it is written in TOML, on one line."""
    return " ".join(_item(value).as_string().split("\n"))


def plain(value: float) -> int | float:
    """Return a whole number as one."""
    return int(value) if float(value).is_integer() else value


def as_id(name: str) -> str:
    """Return the name an instrument can have at the prompt and in columns that is closest to an old one."""
    made = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "instrument"
    if made[0].isdigit():
        made = f"i{made}"
    return f"{made}_" if keyword.iskeyword(made) else made


def written(draft: Draft, source: Source, generation: str, *, is_first: bool) -> Iterator[str]:
    """Yield the lines of a new instrument, with the comments of the old one.

    Parameters
    ----------
    draft
        The new instrument.
    source
        The old one; `source.left` is kept as comments.
    generation
        The section it goes to.
    is_first
        Whether it is the first one the old instrument becomes; the comments about all of it go there.
    """
    old = source.old
    if is_first:
        yield from _as_comments(old.above)
    yield from _as_comments(draft.above)
    yield f"[[{generation}.instruments]]"
    yield f"id = {shown(draft.id)}"
    kept = dict(old.comments) if is_first else {}
    for key, value in {"type": draft.type, **draft.settings}.items():
        comments = kept.pop("type" if key == "type" else draft.taken_from.get(key, ""), Comments())
        yield from _as_comments(comments.above)
        yield f"{key} = {shown(value)}" + (f"  # {comments.beside}" if comments.beside else "")
    if not is_first:
        return
    for key, value in source.left.items():
        comments = kept.pop(key, Comments())
        yield from _as_comments(comments.above)
        yield f"# {key} = {shown(value)}" + (f"  # {comments.beside}" if comments.beside else "")
    for key, comments in kept.items():
        yield from _as_comments(comments.above)
        if comments.beside:
            yield f"# {key} = {source.shown(key)}  # {comments.beside}"
    for texts in old.inner.values():
        yield from _as_comments(texts)


def commented_out(old: OldInstrument, reason: str) -> Iterator[str]:
    """Yield an instrument that needs a hand as comment lines, below the reason."""
    yield from _as_comments(old.above)
    yield f"# NEEDS A HAND: {reason}"
    for line in old.lines:
        yield f"# {line}".rstrip()


def _as_comments(texts: list[str]) -> Iterator[str]:
    for text in texts:
        yield f"# {text}".rstrip()


def _item(value: Any) -> Any:
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        for key, inner in value.items():
            table[key] = _item(inner)
        return table
    if isinstance(value, list | tuple):
        array = tomlkit.array()
        for inner in value:
            array.append(_item(inner))
        return array
    return tomlkit.item(value)
