"""Converting what an old flat file says apart from its instruments: application, storage, and the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from coexistence.config.toml_positions import Place
from coexistence.migration.draft import shown
from coexistence.migration.old_file import Comments, OldFile

_LOG_LEVELS = {
    "trace": "debug", "debug": "debug", "info": "info", "warn": "warning", "warning": "warning", "error": "error",
    "critical": "critical", "fatal": "critical", "off": "critical",
}  # fmt: skip
_APPLICATION = ("name", "operator", "sample", "proposal")
_DIRECTORIES = ("default_path", "path", "directory", "data_dir", "output_dir", "base_path", "root")


@dataclass
class SectionLine:
    """One line of a new section, or a comment that stands for an old one."""

    key: str
    value: Any = None
    comments: Comments = field(default_factory=Comments)
    is_header: bool = False
    is_refused: bool = False
    """Whether it became a comment because the new file would be refused with it."""

    def written(self) -> Iterator[str]:
        """Yield the lines, with the comments of the old ones."""
        yield from (f"# {text}".rstrip() for text in self.comments.above)
        beside = f"  # {self.comments.beside}" if self.comments.beside else ""
        if self.is_header:
            yield f"[{self.key}]{beside}"
        else:
            yield f"{'# ' if self.is_refused else ''}{self.key} = {shown(self.value)}{beside}"


def converted_sections(old: OldFile) -> tuple[list[SectionLine], list[str]]:
    """Return the lines of the new sections, and what was done with the old ones."""
    notes: list[str] = []
    application: list[SectionLine] = []
    catalog: list[SectionLine] = []
    rest: list[SectionLine] = []
    for key, value in old.sections.items():
        if key == "application" and isinstance(value, Mapping):
            for name, inner in value.items():
                _application((key, name), name, inner, old, application, notes)
        elif key in ("log_level", *_APPLICATION):
            _application((key,), key, value, old, application, notes)
        elif key in ("storage", "data") and isinstance(value, Mapping):
            for name, inner in value.items():
                _storage((key, name), name, inner, old, catalog, notes)
        elif isinstance(value, Mapping):
            rest += _kept(key, value, old)
            notes.append(f"[{key}] kept as a comment: the new form has no such section")
        else:
            rest.append(SectionLine(key, value, _comments(old, (key,)), is_refused=True))
            notes.append(f"{key} kept as a comment: the new form has no such setting")
    lines = []
    for name, found, origins in (
        ("application", application, ["application"]),
        ("catalog", catalog, ["storage", "data"]),
    ):
        headers = {key: _comments(old, (key,)) for key in origins if isinstance(old.sections.get(key), Mapping)}
        if found:
            above = [text for comments in headers.values() for text in comments.above]
            beside = " ".join(comments.beside for comments in headers.values() if comments.beside)
            lines += [SectionLine(name, comments=Comments(above, beside), is_header=True), *found]
        else:
            rest += [SectionLine(key, {}, comments, is_refused=True) for key, comments in headers.items()]
    return [*lines, *rest], notes


def _application(place: Place, name: str, value: Any, old: OldFile, lines: list[SectionLine], notes: list[str]) -> None:
    comments = _comments(old, place)
    if name == "log_level":
        level = _LOG_LEVELS.get(str(value).lower())
        if level is None:
            notes.append(f"log_level = {shown(value)} kept as a comment: it is no level; info is used")
        elif level != str(value).lower():
            notes.append(f"log_level = {shown(value)} is {level!r} now")
        lines.append(SectionLine(name, level or value, comments, is_refused=level is None))
    elif name in _APPLICATION and isinstance(value, str):
        lines.append(SectionLine(name, value, comments))
    else:
        lines.append(SectionLine(name, value, comments, is_refused=True))
        notes.append(f"{name} = {shown(value)} kept as a comment: [application] has no such setting")


def _storage(place: Place, name: str, value: Any, old: OldFile, lines: list[SectionLine], notes: list[str]) -> None:
    comments = _comments(old, place)
    has_directory = any(line.key == "directory" for line in lines)
    if name in _DIRECTORIES and isinstance(value, str) and value and not has_directory:
        lines.append(SectionLine("directory", value, comments))
        if not value.startswith(("/", "~")):
            notes.append(f"{name} = {shown(value)} is [catalog] directory now, and relative to the file's folder")
        else:
            notes.append(f"{name} = {shown(value)} is [catalog] directory now")
        return
    lines.append(SectionLine(name, value, comments, is_refused=True))
    if "format" in name:
        notes.append(f"{name} = {shown(value)} kept as a comment: runs go to the catalog and are exported from there")
    else:
        notes.append(f"{name} = {shown(value)} kept as a comment: [catalog] has no such setting")


def _kept(key: str, table: Mapping[str, Any], old: OldFile) -> Iterator[SectionLine]:
    """Yield the lines of a section nobody needs any more, as comments."""
    header = _comments(old, (key,))
    yield SectionLine(key, dict(table), header, is_refused=True)


def _comments(old: OldFile, place: Place) -> Comments:
    return old.comments.get(place, Comments())
