"""What a plan takes, from its signature and its docstring, and how texts of a command line become its arguments."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union

from coexistence.errors import CoexistenceError

Kind = Literal["device", "devices", "rows", "numbers", "tuple", "choice", "float", "int", "bool", "str", "path"]

HELP_OF_ALL = {
    "note": "Remark on this run.",
    "sample": "What is measured.",
    "operator": "Who measures.",
}
_SIMPLE: dict[Any, Kind] = {float: "float", int: "int", bool: "bool", str: "str", Path: "path"}


class WrongOption(CoexistenceError):
    """A text of the command line is not what an argument of a plan can be."""

    def __init__(self, option: str, text: str, expected: str) -> None:
        self.option = option
        self.text = text
        self.expected = expected
        super().__init__(f"--{option} {text!r}: expected is {expected}")


@dataclass(frozen=True)
class PlanArgument:
    """One argument of a plan."""

    name: str
    option: str
    kind: Kind
    required: bool
    default: Any
    help: str
    items: tuple[Kind, ...] = ()
    """Of a row or a tuple: what stands in it, one after the other."""
    choices: tuple[str, ...] = ()

    @property
    def is_list(self) -> bool:
        """Whether the option may be given several times."""
        return self.kind in ("devices", "rows", "numbers")

    @property
    def metavar(self) -> str:
        """What stands for the value in the help."""
        words = {"device": "DEVICE", "float": "NUMBER", "int": "INTEGER", "numbers": "NUMBERS", "str": "TEXT"}
        if self.kind in ("rows", "tuple"):
            return '"' + " ".join(words[item] for item in self.items) + '"'
        if self.kind == "choice":
            return "|".join(self.choices)
        return words.get("device" if self.kind == "devices" else self.kind, self.kind.upper())

    def value(self, given: Any, find: Callable[[str], list[Any]]) -> Any:
        """Return what the plan is called with.

        Parameters
        ----------
        given
            What the command line has: a text, a list of them, a number or a flag.
        find
            Returns the devices that a name stands for.

        Raises
        ------
        WrongOption
            A text cannot be used.
        UnknownDevice
            No device is called so.
        """
        if self.kind == "devices":
            return [device for text in given for name in text.split(",") for device in find(name)]
        if self.kind == "numbers":
            return [number for text in given for number in _numbers(self.option, text, *self.items)]
        if self.kind == "rows":
            return [self._row(text, find) for text in given]
        if self.kind == "tuple":
            return self._row(given, find)
        return self._item(self.kind, given, find)

    def _row(self, text: str, find: Callable[[str], list[Any]]) -> tuple[Any, ...]:
        words = text.split() if " " in text.strip() else re.split(r"[,:]", text)
        if len(words) != len(self.items):
            raise WrongOption(self.option, text, self.metavar)
        return tuple(self._item(kind, word, find) for kind, word in zip(self.items, words, strict=True))

    def _item(self, kind: Kind, text: Any, find: Callable[[str], list[Any]]) -> Any:
        if kind == "device":
            return find(text)[-1]
        if kind == "numbers":
            return _numbers(self.option, text)
        if kind in ("float", "int") and isinstance(text, str):
            return _number(self.option, text, kind)
        return Path(text) if kind == "path" else text


def arguments_of(function: Callable[..., Any], options: Mapping[str, str] | None = None) -> list[PlanArgument]:
    """Return the arguments of a plan that a command line can give: all but further metadata and functions.

    Parameters
    ----------
    function
        The plan.
    options
        What an argument is called on the command line, where that is not its own name.

    Raises
    ------
    TypeError
        The plan cannot be called without something a command line cannot give.
    """
    hints = typing.get_type_hints(function)
    texts = parameter_texts(inspect.getdoc(function) or "")
    found = []
    for parameter in inspect.signature(function).parameters.values():
        required = parameter.default is parameter.empty
        kind, items, choices = _kind_of(hints.get(parameter.name, Any), required)
        if kind is None:
            if required:
                raise TypeError(f"{function.__name__}: {parameter.name} cannot be given on a command line")
            continue
        option = (options or {}).get(parameter.name, parameter.name).replace("_", "-")
        found.append(
            PlanArgument(
                name=parameter.name,
                option=option,
                kind=kind,
                required=required,
                default=None if required else parameter.default,
                help=HELP_OF_ALL.get(parameter.name) or texts.get(parameter.name, ""),
                items=items,
                choices=choices,
            )
        )
    return found


def parameter_texts(docstring: str) -> dict[str, str]:
    """Return what the section Parameters of a docstring says of each parameter."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n-+\n|\Z)", docstring, re.DOTALL | re.MULTILINE)
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in section.group(1).splitlines() if section else ():
        if line and not line.startswith(" "):
            names = [name.strip() for name in line.partition(":")[0].split(",")]
        else:
            for name in names:
                texts[name] = f"{texts.get(name, '')} {line.strip()}".strip()
    return texts


def _kind_of(hint: Any, required: bool) -> tuple[Kind | None, tuple[Kind, ...], tuple[str, ...]]:
    hint = _without_none(hint)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in _SIMPLE:
        return _SIMPLE[hint], (), ()
    if origin is Literal:
        return "choice", (), tuple(map(str, inner))
    if _is_device(hint, required):
        return "device", (), ()
    if origin is tuple:
        items = tuple(_kind_of(item, True)[0] for item in inner)
        return ("tuple", typing.cast("tuple[Kind, ...]", items), ()) if None not in items else (None, (), ())
    if isinstance(origin, type) and issubclass(origin, Sequence) and inner:
        kind, items, _ = _kind_of(inner[0], True)
        if kind == "device":
            return "devices", (), ()
        if kind in ("float", "int"):
            return "numbers", (kind,), ()
        if kind == "tuple":
            return "rows", items, ()
    return None, (), ()


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (Union, types.UnionType):
        inner = [each for each in typing.get_args(hint) if each is not type(None)]
        return inner[0] if inner else hint
    return hint


def _is_device(hint: Any, required: bool) -> bool:
    """Tell whether an annotation stands for a device: a protocol, or anything at all where it is required."""
    return bool(getattr(typing.get_origin(hint) or hint, "_is_protocol", False)) or (hint is Any and required)


def _numbers(option: str, text: str, kind: str = "float") -> list[float]:
    return [_number(option, word, kind) for word in text.split(",")]


def _number(option: str, text: str, kind: str) -> float | int:
    try:
        return int(text) if kind == "int" else float(text)
    except ValueError:
        raise WrongOption(option, text, "a whole number" if kind == "int" else "a number") from None
