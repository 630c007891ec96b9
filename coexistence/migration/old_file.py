"""Reading an old flat file so that its comments can be kept: what stands where, and which comment belongs to what.

A flat file has `[instruments.<id>]` tables; `[[instruments]]` and `[[devices]]` with an `id` each, the settings of the
latter in `[devices.driver]`, are read as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from coexistence.config.toml_positions import Place, line_numbers


@dataclass
class Comments:
    """The comments of one setting: lines above it, and what follows it on its line; without their `#`."""

    above: list[str] = field(default_factory=list)
    beside: str = ""


@dataclass
class OldInstrument:
    """One instrument of a flat file."""

    id: str
    values: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    """Its text, header included."""
    above: list[str] = field(default_factory=list)
    """Comment lines above its header."""
    comments: dict[str, Comments] = field(default_factory=dict)
    inner: dict[Place, list[str]] = field(default_factory=dict)
    """Comment lines of its inner tables, by where these stand in it: `("devices", 0)`."""


@dataclass
class OldFile:
    """A flat file in parts."""

    head: list[str]
    """Comment lines at the beginning of the file."""
    instruments: list[OldInstrument]
    sections: dict[str, Any]
    """Everything that is no instrument."""
    comments: dict[Place, Comments]
    """Comments of what is no instrument, by place; those of a table stand under the place of its header."""
    tail: list[str] = field(default_factory=list)
    """Comment lines at the end of the file."""


def is_flat(values: Mapping[str, Any]) -> bool:
    """Tell whether a file has instruments in the old, flat form."""
    return any(isinstance(values.get(key), Mapping | list) for key in ("instruments", "devices"))


def read_flat_file(text: str, values: Mapping[str, Any]) -> OldFile:
    """Take a flat file apart.

    Parameters
    ----------
    text
        The file.
    values
        What `tomllib` makes of it.
    """
    instruments = {place: OldInstrument(name, found) for place, name, found in _instruments_of(values)}
    sections = {key: value for key, value in values.items() if key not in ("instruments", "devices")}
    read = OldFile([], list(instruments.values()), sections, {})
    owner: OldInstrument | None = None
    for place, is_header, above, lines in _pieces(text, read.head, read.tail):
        if is_header or place[:2] in instruments:
            owner = instruments.get(place[:2])
        beside = " ".join(_comments_in(lines))
        if owner is None:
            read.comments[place] = Comments(above, beside)
            continue
        begins = not owner.lines
        if begins:
            owner.above = above + ([beside] if beside else [])
        owner.lines += ([] if begins else [f"# {line}".rstrip() for line in above]) + lines
        if not is_header and len(place) == 3:
            owner.comments[str(place[2])] = Comments(above, beside)
        elif not begins:
            # A comment beside a setting says little without it.
            owner.inner.setdefault(place[2:4], []).extend([*above, *([lines[0].strip()] if beside else [])])
    return read


def _instruments_of(values: Mapping[str, Any]) -> Iterator[tuple[Place, str, dict[str, Any]]]:
    listed = values.get("instruments")
    if isinstance(listed, Mapping):
        for name, found in listed.items():
            if isinstance(found, Mapping):
                yield ("instruments", name), name, dict(found)
    for key in ("instruments", "devices"):
        found_list = values.get(key)
        if not isinstance(found_list, list):
            continue
        for index, found in enumerate(found_list):
            if isinstance(found, Mapping):
                settings = {name: value for name, value in found.items() if name != "driver"}
                driver = found.get("driver")
                settings |= dict(driver) if isinstance(driver, Mapping) else {"type": driver} if driver else {}
                name = settings.pop("id", None) or settings.get("name") or f"{key.removesuffix('s')}_{index + 1}"
                yield (key, index), str(name), settings


def _pieces(text: str, head: list[str], tail: list[str]) -> Iterator[tuple[Place, bool, list[str], list[str]]]:
    """Yield each header and setting with its place, the comments above it, and its lines; fill head and tail."""
    # TOML ends lines with LF or CRLF only; splitlines() would see more.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    starts: dict[int, Place] = {}
    for place, number in line_numbers(text).items():
        if len(place) > len(starts.get(number, ())):
            starts[number] = place
    numbers = sorted(starts)
    first = numbers[0] - 1 if numbers else len(lines)
    opening = lines[:first]
    blank = max((i for i, line in enumerate(opening) if not line.strip()), default=-1)
    head += _texts(opening[:blank] if blank >= 0 else [])
    gap = opening[blank + 1 :]
    for number, following in zip(numbers, [*numbers[1:], len(lines) + 1], strict=True):
        own = lines[number - 1 : following - 1]
        end = len(own)
        while end > 1 and (not own[end - 1].strip() or own[end - 1].lstrip().startswith("#")):
            end -= 1
        yield starts[number], own[0].lstrip().startswith("["), _texts(gap), own[:end]
        gap = own[end:]
    tail += _texts(gap)


def _texts(lines: list[str]) -> list[str]:
    """Return comment lines without their `#`, and without blank lines."""
    return [line.strip().removeprefix("#").strip() for line in lines if line.strip()]


def _comments_in(lines: list[str]) -> Iterator[str]:
    """Yield the comments that stand on the lines of a header or a setting."""
    ending = ""
    for line in lines:
        index = 0
        while index < len(line):
            if ending:
                found = line.find(ending, index)
                if found < 0:
                    break
                index, ending = found + len(ending), ""
                continue
            character = line[index]
            if character == "#":
                yield line[index:].removeprefix("#").strip()
                break
            if character in "\"'":
                quote = character * 3 if line.startswith(character * 3, index) else character
                index += len(quote)
                if quote == '"':
                    while index < len(line) and line[index] != '"':
                        index += 2 if line[index] == "\\" else 1
                    index += 1
                else:
                    ending = quote
                continue
            index += 1
