"""In which form the catalog keeps the values of a column, so that none of them is changed or left out.

The server gives a column one type for a whole run, whatever the descriptor has announced and the events hold. The
form of a column is the narrowest that holds all of its values:

==========================================  =================================================================
truth values, whole numbers, fractions      one column of a table; whole numbers beside fractions become these
text                                        one column of a table
arrays of numbers or text, of one shape     one array for the run, with a row for each event
arrays of numbers, shapes of one dimension  one ragged array of fractions or of whole numbers
anything else                               text: what is text already stands for itself, the rest is JSON
==========================================  =================================================================

A number that is missing is NaN, which makes whole numbers and truth values fractions; a text that is missing is null.
An array that is missing is one of NaN, in a ragged array one of a single NaN.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from .encoding import as_json, storable

SMALLEST_INTEGER, LARGEST_INTEGER = -(2**63), 2**63 - 1

LARGEST_EXACT = 2**53
"""Up to it fractions hold every whole number."""

NUMERIC = "biuf"
LARGEST_ITEM_BYTES = 8

Kind = Literal["nothing", "boolean", "integer", "number", "text", "array", "ragged"]

_RANK: dict[Kind, int] = {"boolean": 0, "integer": 1, "number": 2}


@dataclass(frozen=True)
class Form:
    """What the values of a column have in common.

    Attributes
    ----------
    kind : str
        "nothing" as long as all are missing.
    dtype : numpy.dtype
        Of the items of arrays.
    shape : tuple of int or None
        Of one array; None for what differs from one to the next.
    large : bool
        Whether some are whole numbers that no fraction equals.
    """

    kind: Kind
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float64))
    shape: tuple[int | None, ...] = ()
    large: bool = field(default=False, compare=False)

    @property
    def is_array(self) -> bool:
        """Whether it is one for arrays."""
        return self.kind in ("array", "ragged")

    def __str__(self) -> str:
        return f"{self.kind} of {self.dtype} {self.shape}" if self.is_array else self.kind


NOTHING = Form("nothing")
BOOLEAN = Form("boolean")
INTEGER = Form("integer")
LARGE_INTEGER = Form("integer", large=True)
NUMBER = Form("number")
TEXT = Form("text")

_DECLARED = {"boolean": BOOLEAN, "integer": INTEGER, "number": NUMBER, "string": TEXT}
_PLAIN = {float: NUMBER, bool: BOOLEAN, str: TEXT, type(None): NOTHING}


class Column:
    """The values of one column that are to be written next, and the form that holds all taken so far.

    Parameters
    ----------
    data_key : dict
        What the descriptor says of it.
    form : Form, optional
        What values taken earlier have needed.
    typed : bool
        Whether the descriptor told the machine type, and not only whether it is a number or text.

    Attributes
    ----------
    values : list
        Of the rows to be written.
    written : Form or None
        The form that the server has it in, once it has any of it.
    """

    def __init__(self, data_key: dict[str, Any], form: Form | None = None, typed: bool = True) -> None:
        self.form = form
        self.values: list[Any] = []
        self.written: Form | None = None
        self._converted: dict[int, Any] = {}
        self._typed = typed
        self._declared = declared_form(data_key, typed)

    def take(self, value: Any) -> int:
        """Take the value of the next event, None when it has none; return how many bytes an array takes."""
        form, kind = self.form, type(value)
        # A million events pass here: what fits is to cost next to nothing.
        if form is not None and (
            _PLAIN.get(kind) is form
            or (kind is int and (form is NUMBER or form is INTEGER) and -LARGEST_EXACT <= value <= LARGEST_EXACT)
        ):
            self.values.append(value)
            return 0
        original, (value, found) = value, measured(value)
        if value is not original:
            self._converted[len(self.values)] = value
        self.values.append(original)
        if self.form is None:
            self.form = self._announced(found, value)
        elif self.form is NOTHING:
            self.form = join(NOTHING, self._announced(found, value))
        else:
            self.form = _wider(self.form, found, value)
        return value.nbytes if isinstance(value, np.ndarray) else 0

    @property
    def arrays(self) -> list[Any]:
        """The values as arrays, None for what is missing, when the form is one for arrays."""
        return [self._converted.get(row, value) for row, value in enumerate(self.values)]

    def clear(self) -> None:
        """Forget the values, which are written."""
        self.values.clear()
        self._converted.clear()

    def settle(self) -> Form:
        """Return the form in which to write now, also when all values are missing so far."""
        if self.form is None or self.form is NOTHING:
            self.form = _with_missing(self._declared or TEXT)
        return self.form

    def _announced(self, found: Form, value: Any) -> Form:
        """Return the form of the first value, in the type that was announced if that holds it."""
        declared = self._declared
        if found == NOTHING or declared is None or declared.is_array != found.is_array:
            return found
        if declared.is_array:
            if not self._typed or found.dtype.kind == "U":
                return found
            dtype = declared.dtype if casts_exactly(value, declared.dtype) else found.dtype
            return replace(found, dtype=dtype)
        wider = join(declared, found)
        return wider if wider != TEXT else found


def declared_form(data_key: dict[str, Any], typed: bool = True) -> Form | None:
    """Return the form that a descriptor announces; None when it announces none that can be told."""
    name = data_key.get("dtype_numpy")
    dtype = np.dtype(name) if isinstance(name, str) and name else None
    if data_key["dtype"] != "array":
        if data_key["dtype"] == "number" and dtype is not None and dtype.kind in "iu":
            return INTEGER
        return _DECLARED.get(data_key["dtype"])
    if not typed or dtype is None or not _is_plain(dtype):
        dtype = np.dtype(np.float64)
    shape = tuple(data_key.get("shape") or ())
    regular = bool(shape) and all(isinstance(length, int) and length > 0 for length in shape)
    return Form("array" if regular else "ragged", dtype, shape if regular else (None,) * max(len(shape), 1))


def measured(value: Any) -> tuple[Any, Form]:
    """Return a value as numbers, text or array, where it is one, and the narrowest form that holds it."""
    kind = type(value)
    if (form := _PLAIN.get(kind)) is not None:
        return value, form
    if kind is int:
        return _measured_integer(value)
    if isinstance(value, np.ndarray | np.generic):
        if _is_plain(value.dtype):
            return _measured_array(np.asarray(value)) if value.ndim else measured(value.item())
        if value.dtype.kind != "U":
            value = as_json(value)
            return measured(value) if isinstance(value, list | float) else (value, TEXT)
        return measured(value.item()) if not value.ndim else _measured_texts(np.asarray(value))
    if isinstance(value, complex):
        return measured([value.real, value.imag])
    if isinstance(value, list | tuple):
        return _measured_list(list(value))
    return value, TEXT


def _measured_integer(value: int) -> tuple[Any, Form]:
    if SMALLEST_INTEGER <= value <= LARGEST_INTEGER:
        return value, INTEGER if _is_fraction_exactly(value) else LARGE_INTEGER
    return value, NUMBER if _is_fraction_exactly(value) else TEXT


def _is_fraction_exactly(value: int) -> bool:
    try:
        return int(float(value)) == value
    except OverflowError:
        return False


def _measured_array(value: np.ndarray[Any, Any]) -> tuple[Any, Form]:
    large = value.dtype.kind in "iu" and value.dtype.itemsize == LARGEST_ITEM_BYTES and _has_large(value)
    if not value.size:
        return value, Form("ragged", value.dtype, (None,) * value.ndim)
    return value, Form("array", value.dtype, value.shape, large)


def _has_large(value: np.ndarray[Any, Any]) -> bool:
    return bool(value.size) and (int(value.max()) > LARGEST_EXACT or int(value.min()) < -LARGEST_EXACT)


def _measured_texts(value: np.ndarray[Any, Any]) -> tuple[Any, Form]:
    # numpy takes zeros at the end of a text for its padding, and what is no Unicode reaches no JSON.
    if value.size and all("\0" not in text and storable(text) == text for text in value.ravel().tolist()):
        return value, Form("array", value.dtype if value.dtype.itemsize else np.dtype("<U1"), value.shape)
    return value, TEXT


def _measured_list(value: list[Any]) -> tuple[Any, Form]:
    plain = as_json(value)
    try:
        objects = np.array(plain, dtype=object)
    except ValueError:
        return value, TEXT
    items = objects.ravel().tolist()
    kinds = set(map(type, items))
    if kinds == {str}:
        return _measured_texts(objects.astype(str))
    if not kinds <= {bool, int, float, type(None)}:
        return value, TEXT
    if kinds & {float, type(None)} or not kinds:
        if not all(_is_fraction_exactly(item) for item in items if type(item) is int):
            return value, TEXT
        return _measured_array(objects.astype(np.float64))
    if int in kinds and not SMALLEST_INTEGER <= min(items) <= max(items) <= LARGEST_INTEGER:
        return value, TEXT
    return _measured_array(objects.astype(np.int64 if int in kinds else np.bool_))


def _wider(form: Form, found: Form, value: Any) -> Form:
    if (
        form.kind == found.kind == "array"
        and form.shape == found.shape
        and form.dtype != found.dtype
        and _is_plain(form.dtype)
        and _is_plain(found.dtype)
        and casts_exactly(value, form.dtype)
    ):
        return replace(form, large=form.large or found.large)
    return join(form, found)


def join(one: Form, other: Form) -> Form:
    """Return the narrowest form that holds what two forms hold."""
    if one == other:
        return other if other.large else one
    if NOTHING in (one, other):
        return _with_missing(other if one == NOTHING else one)
    if one.kind in _RANK and other.kind in _RANK:
        wider = max(one, other, key=lambda form: _RANK[form.kind])
        if one.large or other.large:
            return TEXT if wider is NUMBER else LARGE_INTEGER
        return wider
    if not one.is_array or not other.is_array or len(one.shape) != len(other.shape):
        return TEXT
    dtype = np.result_type(one.dtype, other.dtype)
    large = one.large or other.large
    alike = one.kind == other.kind == "array" and one.shape == other.shape
    if "U" in (one.dtype.kind, other.dtype.kind):
        return Form("array", dtype, one.shape) if alike and one.dtype.kind == other.dtype.kind else TEXT
    if large and dtype.kind == "f":
        return TEXT
    if alike:
        return Form("array", dtype, one.shape, large)
    return Form("ragged", dtype, (None,) * len(one.shape), large)


def _with_missing(form: Form) -> Form:
    # Whole numbers and truth values would be read as fractions and as text.
    if form.large or (form.is_array and form.dtype.kind == "U"):
        return TEXT
    if not form.is_array:
        return NUMBER if form.kind in _RANK else form
    if form.dtype.kind == "f":
        return form
    return replace(form, dtype=np.result_type(form.dtype, np.float16))


def casts_exactly(value: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> bool:
    """Tell whether an array keeps every value in another type."""
    if np.can_cast(value.dtype, dtype, "safe") and not (dtype.kind == "f" and value.dtype.kind in "iu"):
        return True
    with np.errstate(invalid="ignore", over="ignore"):
        cast = value.astype(dtype)
        if dtype.kind == "f" and value.dtype.kind in "iu" and _has_large(value):
            return False  # compared as fractions they would be equal
        return bool(np.array_equal(cast, value, equal_nan=value.dtype.kind == "f"))


def _is_plain(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in NUMERIC and dtype.itemsize <= LARGEST_ITEM_BYTES


def text_of(value: Any) -> str | None:
    """Return a value as the text that a column of text keeps: text stands for itself, the rest is JSON."""
    if value is None:
        return None
    if isinstance(value, str):
        return storable(value)
    plain = as_json(value)
    return storable(plain) if isinstance(plain, str) else json.dumps(plain, default=str)


def cells(values: list[Any], form: Form) -> list[Any]:
    """Return values as a column of a table keeps them."""
    if form.kind == "text":
        return [text_of(value) for value in values]
    if form.kind == "number":
        return [np.nan if value is None else float(value) for value in values]
    return list(map(bool if form.kind == "boolean" else int, values))


def stacked(values: list[Any], form: Form) -> np.ndarray[Any, Any]:
    """Return arrays of one shape as one array, with a row for each."""
    shape: Any = (len(values), *form.shape)
    array = np.empty(shape, form.dtype)
    for row, value in enumerate(values):
        array[row] = np.nan if value is None else value
    return array


def ragged(values: list[Any], form: Form) -> Any:
    """Return arrays whose shapes differ as one ragged array, with a row for each."""
    import awkward

    ndim = len(form.shape)
    missing = np.full((1,) * ndim, np.nan)
    arrays = [(missing if value is None else value).astype(form.dtype) for value in values]
    whole = np.concatenate([array.ravel() for array in arrays])
    layout: Any = awkward.Array(whole)
    for axis in reversed(range(ndim)):
        lengths = [
            np.full(int(np.prod(array.shape[:axis], dtype=int)), array.shape[axis], dtype=np.int64) for array in arrays
        ]
        layout = awkward.unflatten(layout, np.concatenate(lengths))
    return layout
