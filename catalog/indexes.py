"""Indexes on what people search runs by, for the embedded server's SQLite database, and queries that use them.

tiled keeps a run's metadata as one JSON value and has no index on what is in it: every search reads every run. Two
things that SQLite offers change that. The entries that nearly every search names get an index of their own on the
expression by which tiled reads them; SQLite recognizes it only when the path stands in the query itself, so tiled's
translation of queries is extended to write it there. All others are found through the full-text index that tiled
keeps anyway: a run whose entry equals a text or a number has the words of it somewhere, which leaves few runs to be
read. Answers are the same as without, but for one case that says so.
"""

from __future__ import annotations

import contextlib
import operator
import re
import sqlite3
from pathlib import Path
from typing import Any

from .notes import ANNOTATIONS_KEY

INDEXED_KEYS = (
    "start.plan_name",
    "start.scan_id",
    "start.time",
    "start.sample",
    "start.operator",
    "start.proposal",
    "stop.exit_status",
)

_PLAIN_TEXT = re.compile(r'[^"\\\x00-\x1f\x7f]*[^\W_][^"\\\x00-\x1f\x7f]*')
"""Text that stands in JSON as it is, and has at least one letter or digit to be found by."""
_UID_BEGINNING = re.compile(r"[0-9a-f-]+%")
_LARGEST_PLAIN_INTEGER = 10**15
"""Whole numbers below are written with all their digits, also when they are stored as fractions."""


def create_indexes(database: Path) -> None:
    """Create the indexes that a catalog database does not have yet; takes seconds for 100,000 runs, once."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        for key in INDEXED_KEYS:
            name = "ix_tandem_" + key.replace(".", "_")
            connection.execute(f"CREATE INDEX IF NOT EXISTS {name} ON nodes (parent, {_expression(key)})")
        annotated = f"{_expression(ANNOTATIONS_KEY)} IS NOT NULL"
        connection.execute(f"CREATE INDEX IF NOT EXISTS ix_tandem_annotated ON nodes (parent, id) WHERE {annotated}")


def use_indexes() -> None:
    """Have tiled's catalog, in this process, answer queries by way of the indexes."""
    from tiled.catalog.adapter import CatalogNodeAdapter
    from tiled.queries import Comparison, Contains, Eq, FullText, Like

    for query, translate in (
        (Eq, _equal),
        (Comparison, _comparison),
        (Contains, _contains),
        (FullText, _full_text),
        (Like, _like),
    ):
        CatalogNodeAdapter.register_query(query, translate)


def _expression(key: str) -> str:
    path = ".".join(f'"{part}"' for part in key.split("."))
    return f"JSON_EXTRACT(metadata, '$.{path}')"


def _indexed(key: str) -> Any:
    from sqlalchemy import literal_column

    return literal_column(_expression(key).replace("(metadata", "(nodes.metadata"))


def _equal(query: Any, tree: Any) -> Any:
    from tiled.catalog.adapter import binary_op

    if query.key in INDEXED_KEYS and not isinstance(query.value, bool):
        return _with(tree, _indexed(query.key) == query.value)
    return _narrowed(binary_op(query, tree, operator.eq), _words_of(query.value))


def _comparison(query: Any, tree: Any) -> Any:
    from tiled.catalog.adapter import comparison

    if query.key in INDEXED_KEYS:
        return _with(tree, getattr(operator, query.operator.value)(_indexed(query.key), query.value))
    return comparison(query, tree)


def _contains(query: Any, tree: Any) -> Any:
    from sqlalchemy import Text, cast, column, func, text
    from tiled.catalog import orm
    from tiled.catalog.adapter import contains

    value = query.value
    found = contains(query, tree)
    if query.key.split(".")[0] == ANNOTATIONS_KEY:
        # In SQL, for the index is recognized by the name of the table that the expression stands in.
        rows = text(f"SELECT id FROM nodes WHERE {_expression(ANNOTATIONS_KEY)} IS NOT NULL").columns(column("id"))
        return _with(found, orm.Node.id.in_(rows))
    # Within quotes it is a whole text, and its words are whole words.
    is_whole = isinstance(value, str) and len(value) > 2 and value[0] == value[-1] == '"'
    if is_whole and query.key == "start":
        # Looked for in the text as it is stored, for to take a whole document out of it first is slow. It may then
        # also be the whole of a tag or of a note.
        found = _with(tree, func.instr(cast(orm.Node.metadata_, Text), value) > 0)
    return _narrowed(found, _words_of(value[1:-1]) if is_whole else None)


def _full_text(query: Any, tree: Any) -> Any:
    return _narrowed(tree, query.text)


def _like(query: Any, tree: Any) -> Any:
    from sqlalchemy import select
    from sqlalchemy.orm import aliased
    from tiled.catalog import orm
    from tiled.catalog.adapter import like

    found = like(query, tree)
    if query.key == "start.uid" and _UID_BEGINNING.fullmatch(query.pattern):
        # A run's node is named by its uid. As a query within the query, which SQLite answers first.
        first = query.pattern[:-1]
        named = aliased(orm.Node)
        rows = select(named.id).where(named.key >= first, named.key < first[:-1] + chr(ord(first[-1]) + 1))
        found = _with(found, orm.Node.id.in_(rows))
    return found


def _with(tree: Any, *conditions: Any) -> Any:
    return tree.new_variation(conditions=[*tree.conditions, *conditions])


def _words_of(value: Any) -> str | None:
    """Return the full-text query that every run satisfies which holds this value, or None when there is none."""
    if isinstance(value, str) and _PLAIN_TEXT.fullmatch(value):
        return f'"{value}"'
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST_PLAIN_INTEGER:
        return f'"{abs(value)}"'
    return None


def _narrowed(tree: Any, words: str | None) -> Any:
    """Return the tree with the condition that the words stand in a run's metadata."""
    from sqlalchemy import select
    from tiled.catalog import orm

    if words is None:
        return tree
    rows = select(orm.metadata_fts5.c.rowid).where(orm.metadata_fts5.c.metadata.match(words))
    return _with(tree, orm.Node.id.in_(rows))
