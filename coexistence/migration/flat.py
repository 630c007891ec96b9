"""Converting old flat files: parts in, a checked new file out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coexistence.config import DualConfig, Generation
from coexistence.errors import ConfigError, Problem
from coexistence.migration.draft import Draft, NeedsAHand, Source, as_id, commented_out, shown, written
from coexistence.migration.flat_sections import SectionLine, converted_sections
from coexistence.migration.old_file import OldFile, OldInstrument, read_flat_file
from coexistence.migration.report import Conversion, ConversionRefused, Converted
from coexistence.migration.rules import convert as convert_by_rule

Check = Callable[[str], DualConfig]

SHADOW_SUFFIX = "_shadow"
"""What the id of a twin ends in: it stays when twin and original change roles, so it names neither generation."""


@dataclass
class _Item:
    """One old instrument, what it becomes, and what is told about it."""

    old: OldInstrument
    source: Source
    told: Converted
    drafts: list[Draft] = field(default_factory=list)

    def give_up(self, reason: str) -> None:
        self.drafts = []
        self.told.reason = reason
        self.told.remarks = []
        self.told.new_ids = ()


def convert_flat(
    text: str, values: Mapping[str, Any], check: Check, path: Path, *, to: Generation, shadows: bool
) -> Conversion:
    """Convert a flat file; see :func:`coexistence.migration.convert_file`."""
    old = read_flat_file(text, values)
    items = _items(old)
    lines, notes = converted_sections(old)
    while True:
        new_text, owners = _assembled(old, items, lines, to, shadows)
        try:
            check(new_text)
        except ConfigError as error:
            if not _given_up(error.problems, owners, notes, path):
                raise ConversionRefused(
                    str(path),
                    "the new file would not be accepted: " + "; ".join(str(problem) for problem in error.problems),
                    "Correct this in the old file.",
                ) from error
            continue
        break
    for item in items:
        item.told.new_ids = tuple(draft.id for draft in item.drafts)
        item.told.new_type = item.drafts[0].type if item.drafts else ""
        if item.drafts:
            item.told.remarks = item.source.remarks
    return Conversion(new_text, "flat", [item.told for item in items], notes)


def _items(old: OldFile) -> list[_Item]:
    items = []
    taken: set[str] = set()
    for instrument in old.instruments:
        source = Source(instrument)
        old_type = instrument.values.get("type", instrument.values.get("driver", ""))
        item = _Item(instrument, source, Converted(instrument.id, str(old_type)))
        items.append(item)
        name = as_id(instrument.id)
        if name != instrument.id:
            source.remark(f"called {name!r}: an id is a name at the prompt and the first part of columns")
        try:
            item.drafts = convert_by_rule(source, name)
        except NeedsAHand as reason:
            item.give_up(str(reason))
            continue
        for draft in item.drafts:
            draft.id = _free(draft.id, taken, source)
            taken.add(draft.id)
    return items


def _free(name: str, taken: set[str], source: Source) -> str:
    if name not in taken:
        return name
    free = next(f"{name}_{number}" for number in range(2, len(taken) + 3) if f"{name}_{number}" not in taken)
    source.remark(f"called {free!r}: {name!r} is taken by another instrument")
    return free


def _assembled(
    old: OldFile, items: list[_Item], section_lines: list[SectionLine], to: Generation, shadows: bool
) -> tuple[str, dict[int, _Item | SectionLine]]:
    """Return the new file, and by line number who is to blame for a problem there."""
    lines: list[str] = [f"# {text}".rstrip() for text in old.head]
    owners: dict[int, _Item | SectionLine] = {}

    def add(more: Iterator[str] | list[str], owner: _Item | SectionLine | None = None) -> None:
        for line in more:
            lines.append(line)
            if owner is not None:
                owners[len(lines)] = owner

    for line in section_lines:
        add([""] if line.is_header and lines else [])
        add(line.written(), line)
    for item in items:
        if not item.drafts:
            add([*([""] if lines else []), *commented_out(item.old, item.told.reason)])
            continue
        for number, draft in enumerate(item.drafts):
            add([""] if lines else [])
            add(written(draft, item.source, to, is_first=number == 0), item)
        if shadows:
            for draft in item.drafts:
                add(["", *shadow_lines(draft.id, {"type": draft.type, **draft.settings})], item)
    add(["", *(f"# {text}".rstrip() for text in old.tail)] if old.tail else [])
    return "\n".join(lines) + "\n", owners


def shadow_lines(original: str, settings: Mapping[str, Any]) -> list[str]:
    """Return the lines of a twin in v4 that shadows an instrument of v2, with the same settings."""
    return [
        "[[v4.instruments]]",
        f"id = {shown(original + SHADOW_SUFFIX)}",
        f"shadow_of = {shown(original)}",
        *(f"{key} = {shown(value)}" for key, value in settings.items() if key not in ("id", "shadow_of")),
    ]


def _given_up(
    problems: tuple[Problem, ...], owners: Mapping[int, _Item | SectionLine], notes: list[str], path: Path
) -> bool:
    """Take out what the new file would be refused for; tell whether anything was."""
    progress = False
    for problem in problems:
        number = problem.location.rpartition(":")[2]
        owner = owners.get(int(number)) if number.isdigit() else None
        reason = problem.message + (f": {problem.suggestion}" if problem.suggestion else "")
        if isinstance(owner, _Item) and owner.drafts:
            owner.give_up(reason)
            progress = True
        elif isinstance(owner, SectionLine) and not owner.is_refused:
            owner.is_refused = True
            notes.append(f"{owner.key} = {shown(owner.value)} of {path.name} kept as a comment: {reason}")
            progress = True
    return progress
