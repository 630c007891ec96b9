"""The data directory, its catalog, and the sessions that are running."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from catalog.errors import CatalogError
from catalog.maintenance import CatalogStatus, status
from coexistence.errors import CoexistenceError
from profiles.control import running_sessions
from profiles.doctor.findings import Check

LITTLE_SPACE = 2 * 2**30
"""Bytes; an hour of a camera at full rate needs more."""
NO_SPACE = 100 * 2**20


def record_checks(data_dir: Path) -> Iterator[Check]:
    """Yield how the data directory, its disk and its catalog are; nothing is started."""
    existing = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Check(
            "data directory", "problem", f"{existing} may not be written by you", "give another one: --data-dir"
        )
    else:
        there = "" if existing == data_dir else ", made by the first session"
        yield Check("data directory", "ok", f"{data_dir}{there}")
    yield _space(existing)
    with contextlib.suppress(CatalogError):  # no session has recorded there yet
        yield from _catalog(status(data_dir), data_dir)


def session_checks() -> Iterator[Check]:
    """Yield which sessions of this user are running."""
    try:
        with running_sessions() as sessions:
            for session in sessions:
                facts = session.facts
                found = f"process {facts['pid']}, {facts['state']}, runs in {facts['data_dir']}"
                yield Check(f"session {facts['name']}", "ok", found)
            if not sessions:
                yield Check("sessions", "ok", "none of yours is running")
    except CoexistenceError as error:
        yield Check("sessions", "warning", str(error), "see above")


def _space(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    found = f"{free / 2**30:.1f} GiB free"
    if free < NO_SPACE:
        return Check("disk", "problem", found, "runs pause when the disk is full: make room")
    if free < LITTLE_SPACE:
        return Check("disk", "warning", found, "make room before taking images")
    return Check("disk", "ok", found)


def _catalog(found: CatalogStatus, data_dir: Path) -> Iterator[Check]:
    if found.daemon is None:
        yield Check("catalog", "ok", f"{found.delivered_runs} runs delivered; its server is started when needed")
    elif found.daemon.problem:
        yield Check("catalog", "problem", f"its server is {found.daemon.phase}: {found.daemon.problem}", "see server/")
    else:
        kept = ", kept without sessions" if found.kept else ""
        yield Check(
            "catalog",
            "ok",
            f"{found.daemon.phase}, process {found.daemon.daemon_pid}, used by {found.sessions} sessions{kept}; "
            f"{found.delivered_runs} runs delivered",
        )
    for uid, problem in found.problems.items():
        yield Check(f"run {uid[:8]}", "problem", f"it cannot be delivered: {problem}", f"its journal is in {data_dir}")
    waiting = [uid for uid in found.waiting_runs if uid not in found.problems]
    if waiting and found.daemon is None:
        yield Check(
            "undelivered runs",
            "warning",
            f"{len(waiting)} runs wait in their journals; nothing is lost",
            f"any session or query delivers them: tandem runs --data-dir {data_dir}",
        )
    elif waiting:
        yield Check("undelivered runs", "note", f"{len(waiting)} runs are on their way")
