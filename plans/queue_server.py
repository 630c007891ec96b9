"""The plans of the catalogue with annotations that bluesky's queue server understands."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union

from bluesky import protocols

from plans.catalogue import CATALOGUE


def plans_for_queue_server() -> dict[str, Callable[..., Any]]:
    """Return the plans of the catalogue by name, for the startup script of a queue server.

    The server reads the types of a plan's parameters from annotations that are no texts, and knows devices only by the
    protocols of bluesky: with these, devices can be given by their names, and arguments are validated when a plan is
    added. Rows such as the axes of a grid are lists: ``[["polarizer", 0, 180, 19]]``.

        globals().update(plans_for_queue_server())
    """
    return {name: _annotated(plan.function) for name, plan in CATALOGUE.items()}


def _annotated(function: Any) -> Callable[..., Any]:
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__doc__, copy.__module__ = function.__doc__, function.__module__
    hints = typing.get_type_hints(function)
    # Names of devices inside of rows are found by the server only where a parameter has no annotation at all.
    copy.__annotations__ = {
        name: _known(hint) for name, hint in hints.items() if name != "return" and not _has_rows(hint)
    }
    return copy


def _has_rows(hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    is_list = isinstance(origin, type) and issubclass(origin, Sequence) and origin is not tuple
    return is_list and typing.get_origin(inner[0]) is tuple


def _known(hint: Any) -> Any:
    """Return an annotation in terms that the server knows."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        (first, *_) = (each for each in inner if each is not type(None))
        return typing.Optional[_known(first)]  # noqa: UP045
    if getattr(origin or hint, "_is_protocol", False):
        return getattr(protocols, (origin or hint).__name__, Any)
    if isinstance(origin, type) and issubclass(origin, Sequence) and origin is not tuple:
        item: Any = _known(inner[0])
        listed: Any = typing.Sequence
        return listed[item]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return typing.Mapping[str, Any]
    return hint
