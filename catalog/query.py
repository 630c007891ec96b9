"""Find runs by what people remember of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from .errors import BadSearch
from .moments import period
from .notes import ANNOTATIONS_KEY

if TYPE_CHECKING:
    from datetime import datetime

    from bluesky_tiled_plugins import CatalogOfBlueskyRuns

ExitStatus = Literal["success", "abort", "fail"]


def search_runs(
    catalog: CatalogOfBlueskyRuns,
    *,
    plan: str | None = None,
    device: str | None = None,
    detector: str | None = None,
    motor: str | None = None,
    sample: Any = None,
    operator: str | None = None,
    proposal: Any = None,
    exit_status: ExitStatus | None = None,
    since: str | float | datetime | None = None,
    until: str | float | datetime | None = None,
    tags: str | Iterable[str] = (),
    note: str | None = None,
    text: str | None = None,
    **metadata: Any,
) -> CatalogOfBlueskyRuns:
    """Return the runs for which everything given is true, as a catalog that can be searched further.

    Parameters
    ----------
    catalog : CatalogOfBlueskyRuns
        What to search.
    plan : str
        Name of the plan.
    device : str
        Name of a device that the start document names anywhere: a detector, a motor, an instrument of the session.
    detector, motor : str
        Name of a device among the run's detectors or motors.
    sample, operator, proposal : str or other value
        As the start document has them.
    exit_status : "success", "abort" or "fail"
        How the run ended; runs that go on have none.
    since, until : str, float or datetime
        When the run began: from the beginning of ``since`` to the end of ``until``. Text such as "yesterday",
        "3 days", "2026-06", "2026-06-01 14:00", or seconds of Unix time; see `catalog.moments`.
    tags : str or several
        Tags the run has; all of them.
    note : str
        Text that stands in its notes.
    text : str
        Words that stand, in this order, anywhere in the run's metadata, notes and tags included.
    **metadata
        Further entries of the start document and their values, for example ``campaign="autumn"``; entries of
        entries with a dot, ``**{"plan_args.num": 5}``.

    Raises
    ------
    UnknownMoment
        ``since`` or ``until`` is not understood.
    BadSearch
        ``exit_status`` is none of the three, or a value is of a kind that cannot be searched for.
    """
    from tiled.queries import Comparison, Contains, Eq, FullText

    tags = [tags] if isinstance(tags, str) else list(tags) if isinstance(tags, Iterable) else [tags]
    texts = {"device": device, "detector": detector, "motor": motor, "note": note, "text": text}
    for word, given_text in (*texts.items(), *(("tags", tag) for tag in tags)):
        if given_text is not None and not isinstance(given_text, str):
            raise BadSearch(f"{word}={given_text!r} cannot be searched for: give text.")
    given = {"plan_name": plan, "sample": sample, "operator": operator, "proposal": proposal}
    given = {key: value for key, value in given.items() if value is not None}
    entries = {
        key: value.item() if isinstance(value, np.generic) else value for key, value in {**given, **metadata}.items()
    }
    for key, value in entries.items():
        if not isinstance(value, str | int | float | None):
            raise BadSearch(
                f"{key}={value!r} cannot be searched for: give text, a number, True, False or None. Entries of entries "
                f"are asked for with a dot, **{{'{key}.name': value}}; anything by the words in it, text='...'."
            )
    queries: list[Any] = [Eq(f"start.{key}", value) for key, value in entries.items()]
    for names, name in (("start.detectors", detector), ("start.motors", motor), ("start", device)):
        if name is not None:
            # The entry is compared as text: with its quotes a name is not found inside a longer one.
            queries.append(Contains(names, json.dumps(name)))
    if exit_status is not None:
        if exit_status not in (ways := get_args(ExitStatus)):
            raise BadSearch(f"'{exit_status}' is no exit status of a run: give {', '.join(ways)}.")
        queries.append(Eq("stop.exit_status", exit_status))
    if since is not None:
        queries.append(Comparison("ge", "start.time", period(since)[0]))
    if until is not None:
        queries.append(Comparison("lt", "start.time", period(until)[1]))
    for each in tags:
        queries.append(Contains(f"{ANNOTATIONS_KEY}.tags", json.dumps(each)))
    if note is not None:
        queries.append(Contains(f"{ANNOTATIONS_KEY}.notes", json.dumps(note)[1:-1]))
    if text is not None:
        queries.append(FullText('"' + text.replace('"', '""') + '"'))
    for query in queries:
        # The catalog's own search takes every key for one of the start document.
        catalog = _search(catalog, query)
    return catalog


def _search(catalog: CatalogOfBlueskyRuns, query: Any) -> CatalogOfBlueskyRuns:
    from tiled.client.container import Container

    found: CatalogOfBlueskyRuns = Container.search(catalog, query)
    return found
