"""Keywords with a short and a long form, as SCPI instruments accept them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

_NODE = re.compile(r"(\[)?:?([A-Za-z*]+\??):?(\])?")


def spellings(pattern: str) -> set[str]:
    """List all upper-case spellings of a header such as `[SENSe:]VOLTage[:DC]:NPLCycles?`.

    A node's capitals are its short form, brackets make a node optional.
    """
    query = "?" if pattern.endswith("?") else ""
    choices: list[tuple[str, ...]] = []
    for opened, node, closed in _NODE.findall(pattern.removesuffix("?")):
        short = "".join(letter for letter in node if not letter.islower())
        forms = (short, node.upper()) if short != node.upper() else (short,)
        choices.append((*forms, "") if opened and closed else forms)
    return {":".join(filter(None, nodes)) + query for nodes in itertools.product(*choices)}


def by_spelling(table: Mapping[str, T]) -> dict[str, T]:
    """Turn a table by pattern into one by spelling."""
    return {spelling: entry for pattern, entry in table.items() for spelling in spellings(pattern)}
