"""What the catalog calls a column, or a stream, whose name it cannot take or would take for something else.

Databases tell no capital letters from small ones, allow 63 bytes, of which tiled wants three for the column of
timestamps, and neither quotes nor the like; tiled itself has uses for ``time``, ``seq_num``, ``internal``, names with a
slash, and those that begin with ``ts_`` or ``_``. Its documents have no settings with a dot or a slash in their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .encoding import Document

LONGEST_NAME_BYTES = 60

_NAME = re.compile(r"(?!ts_)[a-zA-Z][\w ()\[\]:+=,@&|<>~^!-]*", re.ASCII)
_SEPARATORS = re.compile(r"[./]")
_UNUSABLE_IN_STREAMS = re.compile(r"[/\\?#%\x00-\x1f\x7f]|[\ud800-\udfff]|^\.+$")
_TAKEN = frozenset({"time", "seq_num", "internal"})


def changed_names(keys: Iterable[str]) -> dict[str, str]:
    """Return the names that columns of a stream get in the catalog, of those that are called otherwise there."""
    keys = list(keys)
    changed: dict[str, str] = {}
    kept = {key.lower() for key in keys}
    used: set[str] = set(_TAKEN)
    for key in keys:
        if _is_usable(key) and key.lower() not in used:
            used.add(key.lower())
            continue
        name = base = _usable(key)
        number = 1
        while name.lower() in used or name.lower() in kept:
            number += 1
            name = f"{base[: LONGEST_NAME_BYTES - len(str(number))]}{number}"
        used.add(name.lower())
        changed[key] = name
    return changed


def _is_usable(key: str) -> bool:
    return bool(_NAME.fullmatch(key)) and "--" not in key and len(key) <= LONGEST_NAME_BYTES


def _usable(key: str) -> str:
    name = re.sub(r"[^\w ]", "_", key, flags=re.ASCII)
    if not _NAME.fullmatch(name):
        name = f"key_{name.lstrip('_')}"
    return f"{name[: LONGEST_NAME_BYTES - 1]}_" if name.lower() in _TAKEN else name[:LONGEST_NAME_BYTES]


class ColumnNames:
    """Gives the columns of a run their names in the catalog, document by document.

    Attributes
    ----------
    changed : dict
        By stream: the names in the catalog of columns that are called otherwise there.
    """

    def __init__(self) -> None:
        self.changed: dict[str, dict[str, str]] = {}
        self._streams: dict[str, str] = {}
        self._of_descriptor: dict[str, dict[str, str]] = {}

    def __call__(self, name: str, document: Document) -> Document:
        """Return a document as the catalog is to have it: the same one where nothing changes."""
        if name == "descriptor":
            stream = self._stream(document["name"])
            names = self.changed.setdefault(stream, changed_names(document["data_keys"]))
            self._of_descriptor[document["uid"]] = names
            configuration = _without_separators(document.get("configuration", {}))
            return _renamed_descriptor({**document, "name": stream, "configuration": configuration}, names)
        if name in ("event", "event_page"):
            names = self._of_descriptor[document["descriptor"]]
            return _renamed_event(document, names) if names else document
        if name == "stream_resource" and any(document["data_key"] in names for names in self.changed.values()):
            key = document["data_key"]
            return {**document, "data_key": next(names[key] for names in self.changed.values() if key in names)}
        return document

    def _stream(self, name: str) -> str:
        if name not in self._streams:
            usable = base = _UNUSABLE_IN_STREAMS.sub("_", name) or "stream"
            number = 1
            while usable in self._streams.values():
                number += 1
                usable = f"{base}{number}"
            self._streams[name] = usable
        return self._streams[name]


def _without_separators(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_SEPARATORS.sub("_", str(key)) or "_": _without_separators(item) for key, item in value.items()}
    return list(map(_without_separators, value)) if isinstance(value, list) else value


def _renamed_descriptor(document: Document, names: Mapping[str, str]) -> Document:
    document = {**document, "data_keys": _renamed(document["data_keys"], names)}
    if "object_keys" in document:
        document["object_keys"] = {
            device: [names.get(key, key) for key in keys] for device, keys in document["object_keys"].items()
        }
    if "hints" in document:
        document["hints"] = {
            device: {**hint, "fields": [names.get(key, key) for key in hint["fields"]]} if "fields" in hint else hint
            for device, hint in document["hints"].items()
        }
    return document


def _renamed_event(document: Document, names: Mapping[str, str]) -> Document:
    parts = ("data", "timestamps", "filled")
    return {**document, **{part: _renamed(document[part], names) for part in parts if part in document}}


def _renamed(entries: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in entries.items()}
