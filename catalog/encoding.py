"""Documents as lines of JSON from which the very same documents can be read back.

Plain JSON values stand for themselves; numbers keep every bit, and ``NaN``, ``Infinity`` and ``-Infinity`` are
written as Python's ``json`` writes them. Everything else is an object with one key that starts with ``~``:

=============================  ======================================================
``{"~tuple": [...]}``          tuple
``{"~set": [...]}``            set
``{"~bytes": "base64"}``       bytes
``{"~complex": [re, im]}``     complex
``{"~path": "text"}``          `pathlib.Path`
``{"~time": "ISO 8601"}``      `datetime.datetime`
``{"~date": "ISO 8601"}``      `datetime.date`
``{"~dict": [[key, value]]}``  dictionary with keys that are no text, or that would look like one of these
``{"~float64": 0.5}``          numpy scalar, the key being the name of its dtype (bool, intN, uintN, floatN, str_)
``{"~array": [dtype, shape, "base64"]}``   numpy array or other numpy scalar (``shape`` null), in C order
``{"~objects": [shape, [...]]}``           numpy array of objects
=============================  ======================================================

Subclasses of text and numbers (enumerations, for example) are stored as the plain value they equal.
"""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from .errors import UnrecordableValue

Document = dict[str, Any]

_PLAIN = frozenset({str, int, float, bool, type(None)})
_SCALARS: dict[type, str] = {
    np.bool_: "~bool",
    np.str_: "~str_",
    **{
        kind: f"~{kind.__name__}"
        for kind in (
            np.int8,
            np.int16,
            np.int32,
            np.int64,
            np.uint8,
            np.uint16,
            np.uint32,
            np.uint64,
            np.float16,
            np.float32,
            np.float64,
        )
    },
}
_dumps = json.JSONEncoder(ensure_ascii=True, check_circular=False, separators=(",", ":")).encode


def encode(name: str, document: Mapping[str, Any]) -> bytes:
    """Return a document as one line, newline included.

    Raises
    ------
    UnrecordableValue
        A value has no exact form; the error names its place in the document.
    """
    return _dumps({"name": name, "doc": _flatten(document, (name,))}).encode("ascii") + b"\n"


def decode(line: bytes) -> tuple[str, Document]:
    """Return the name and the document of one line.

    Raises
    ------
    ValueError
        The line is no document.
    """
    try:
        entry = _decoder.decode(line.decode("utf-8"))
        name, document = entry["name"], entry["doc"]
    except ValueError:
        raise
    except Exception as error:  # what a damaged array or time ends in has many names
        raise ValueError(f"it holds no document: {type(error).__name__}: {error}") from error
    if not isinstance(name, str) or not isinstance(document, dict):
        raise ValueError("it holds no document")
    return name, document


def _flatten(value: Any, where: tuple[object, ...]) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dict:
        return _flatten_dict(value, where)
    if kind is list:
        return [item if type(item) in _PLAIN else _flatten(item, (*where, i)) for i, item in enumerate(value)]
    if kind is tuple:
        return {"~tuple": [_flatten(item, (*where, i)) for i, item in enumerate(value)]}
    if tag := _SCALARS.get(kind):
        return {tag: value.item()}
    if isinstance(value, np.generic):
        array = np.asarray(value)
        return {"~array": [_dtype_name(array.dtype), None, base64.b64encode(array.tobytes()).decode("ascii")]}
    if isinstance(value, np.ndarray):
        return _flatten_array(value, where)
    return _flatten_rare(value, where)


def _flatten_dict(value: Mapping[Any, Any], where: tuple[object, ...]) -> Any:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if type(key) is not str:
            break
        flat[key] = item if type(item) in _PLAIN else _flatten(item, (*where, key))
    else:
        if len(flat) != 1 or not next(iter(flat)).startswith("~"):
            return flat
    return {"~dict": [[_flatten(key, (*where, "key")), _flatten(item, (*where, key))] for key, item in value.items()]}


def _flatten_array(value: np.ndarray[Any, Any], where: tuple[object, ...]) -> Any:
    if value.dtype.hasobject:
        if value.dtype.names is not None:
            raise UnrecordableValue(_path(where), type(value))
        items = [_flatten(item, where) for item in value.ravel().tolist()]
        return {"~objects": [list(value.shape), items]}
    content = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode("ascii")
    return {"~array": [_dtype_name(value.dtype), list(value.shape), content]}


def _flatten_rare(value: Any, where: tuple[object, ...]) -> Any:
    # A subclass of a plain type: text enumerations of ophyd-async, IntEnum, bluesky's own string types.
    for plain in (str, bool, int, float):
        if isinstance(value, plain):
            return plain.__str__(value) if plain is str else plain(value)
    if isinstance(value, Mapping):
        return _flatten_dict(value, where)
    if isinstance(value, list):
        return _flatten(list(value), where)
    if isinstance(value, tuple):
        return _flatten(tuple(value), where)
    if isinstance(value, bytes | bytearray | memoryview):
        return {"~bytes": base64.b64encode(bytes(value)).decode("ascii")}
    if isinstance(value, set | frozenset):
        return {"~set": [_flatten(item, where) for item in sorted(value, key=repr)]}
    if isinstance(value, complex):
        return {"~complex": [value.real, value.imag]}
    if isinstance(value, PurePath):
        return {"~path": str(value)}
    if isinstance(value, datetime.datetime):
        return {"~time": value.isoformat()}
    if isinstance(value, datetime.date):
        return {"~date": value.isoformat()}
    raise UnrecordableValue(_path(where), type(value))


def _path(where: tuple[object, ...]) -> str:
    return ".".join(str(part) for part in where)


def _dtype_name(dtype: np.dtype[Any]) -> Any:
    return dtype.str if dtype.names is None else dtype.descr


def _read_dtype(stored: Any) -> np.dtype[Any]:
    if isinstance(stored, str):
        return np.dtype(stored)
    return np.dtype([(field[0], *(_read_field(part) for part in field[1:])) for field in stored])


def _read_field(part: Any) -> Any:
    if isinstance(part, str):
        return part
    return tuple(part) if all(isinstance(size, int) for size in part) else _read_dtype(part)


def _read_array(stored: Any) -> Any:
    dtype, shape, content = stored
    flat = np.frombuffer(base64.b64decode(content), dtype=_read_dtype(dtype))
    return flat[0] if shape is None else flat.reshape(shape).copy()


def _read_objects(stored: Any) -> Any:
    shape, items = stored
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(shape)


_READERS: dict[str, Callable[[Any], Any]] = {
    "~tuple": tuple,
    "~set": set,
    "~bytes": base64.b64decode,
    "~complex": lambda parts: complex(*parts),
    "~path": Path,
    "~time": datetime.datetime.fromisoformat,
    "~date": datetime.date.fromisoformat,
    "~dict": dict,
    "~array": _read_array,
    "~objects": _read_objects,
    **{tag: kind for kind, tag in _SCALARS.items()},
}


def _restore(stored: dict[str, Any]) -> Any:
    if len(stored) == 1:
        ((key, value),) = stored.items()
        if reader := _READERS.get(key):
            return reader(value)
    return stored


_decoder = json.JSONDecoder(object_hook=_restore)


def as_json(value: Any) -> Any:
    """Return metadata as plain JSON values, the form in which the catalog keeps and searches it."""
    if isinstance(value, Mapping):
        return {storable(str(key)): as_json(item) for key, item in value.items()}
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, set):
        return [as_json(item) for item in sorted(value, key=repr)]
    if isinstance(value, np.ndarray | np.generic):
        return as_json(_as_python(value))
    if isinstance(value, complex):
        return [value.real, value.imag]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, datetime.date):
        return value.isoformat()
    return value


def storable(text: str) -> str:
    r"""Return a text as JSON and databases take it: what is no Unicode is written out, as in ``\ud800``."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _as_python(value: np.ndarray[Any, Any] | np.generic) -> Any:
    """Return numbers and times of numpy's own as Python's, and as text what Python has no type for."""
    if value.dtype.kind in "Mm":
        return value.astype(str).tolist()
    if value.dtype.char in "gG" and value.ndim:  # numbers that Python has no type for
        return [_as_python(item) for item in np.asarray(value)]
    if not isinstance(plain := value.tolist(), np.generic):
        return plain
    if isinstance(plain, np.complexfloating):
        return [_as_python(plain.real), _as_python(plain.imag)]
    return float(plain) if float(plain) == plain or plain != plain else str(plain)
