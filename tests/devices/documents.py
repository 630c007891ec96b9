"""Picks from the documents of a run."""

from typing import Any


def events(documents: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [document for name, document in documents if name == "event"]
