"""Switching one instrument to the other generation in its configuration file, and back.

The instrument keeps its id, and with it the names of its columns. Alone, it moves to the other section where it stands.
With a twin (an instrument of the other generation with `shadow_of`), both change roles: the twin takes over the id, and
what was in use becomes its shadow under the id of the twin.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coexistence.config import DualConfig, Generation, InstrumentConfig
from coexistence.errors import CoexistenceError, ConfigError
from coexistence.migration.edit import CannotEdit, ConfigText, change_record
from coexistence.migration.evidence import Evidence
from coexistence.migration.replace_file import Snapshot, replace_files

LoadAll = Callable[[Sequence[Path]], DualConfig]
"""Reads files, later ones over earlier ones; raises :class:`ConfigError` with everything that is wrong with them."""

_DRAFT_ID = "tandem_migration_draft"


class CannotSwitch(CoexistenceError):
    """An instrument cannot change generation; nothing was written."""

    def __init__(self, instrument_id: str, reason: str, remedy: str) -> None:
        self.instrument_id = instrument_id
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"{instrument_id!r} stays as it is: {reason}. {remedy}")


@dataclass(frozen=True)
class Switched:
    """What a cutover or a rollback changed."""

    instrument_id: str
    from_generation: Generation
    to_generation: Generation
    files: tuple[Path, ...]
    """What was replaced."""
    shadow: str | None = None
    """Id of the twin that has changed roles with it."""
    on: str = ""
    """When, in ISO 8601 with the offset from UTC."""
    warnings: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**vars(self), "files": [str(path) for path in self.files], "warnings": list(self.warnings)}


def objections(config: DualConfig, instrument_id: str, found: Evidence, to: Generation) -> list[str]:
    """Return what speaks against switching an instrument: evidence that is missing, bad, or about something else.

    Parameters
    ----------
    config
        The present configuration.
    instrument_id
        The instrument in use.
    found
        What the shadow report says about it.
    to
        The generation it is to have. Going back to v2 needs no evidence.

    Raises
    ------
    CannotSwitch
        There is no such instrument in use, or it is of that generation already.
    """
    _in_use(config, instrument_id, to)
    if to == "v2":
        return []
    if found.is_missing or found.verdict != "equivalent":
        return [str(found)]
    twin = twin_of(config, instrument_id)
    if found.shadow_generation != to:
        return [f"the evidence is about a shadow in {found.shadow_generation}"]
    if twin is not None and found.shadow != twin.id:
        return [f"the evidence is about the shadow {found.shadow!r}, and the twin is {twin.id!r}"]
    if found.simulated:
        return ["the evidence is from simulated instruments, and says nothing of the real ones"]
    return []


def switch(
    paths: Sequence[str | os.PathLike[str]],
    instrument_id: str,
    to: Generation,
    load: LoadAll,
    *,
    evidence: Evidence | None = None,
) -> Switched:
    """Give an instrument the other generation in its file, or in all files that say something about it.

    Each file is replaced in one step and keeps its comments and permissions. The instrument gets
    `migrated = { from, on, evidence }`, which sessions put into start documents.

    Parameters
    ----------
    paths
        The files of the configuration, later ones over earlier ones.
    instrument_id
        The instrument in use, not its shadow.
    to
        The generation it is to have.
    load
        Reads and checks the files; what it refuses is not written.
    evidence
        What the decision is based on, for the record.

    Raises
    ------
    CannotSwitch
        There is no such instrument, it is of that generation already, or the result would be no valid configuration.
    CannotEdit
        A file is written in a way that cannot be changed setting by setting.
    FileChanged
        A file was changed meanwhile.
    ConfigError
        The files have problems as they are.
    OSError
        A file cannot be written.
    """
    files = [Path(path) for path in paths]
    snapshots = [Snapshot.of(path) for path in files]
    config = load(files)
    instrument, generation = _in_use(config, instrument_id, to)
    twin = twin_of(config, instrument_id)
    if not config.generation(to).enabled:
        raise CannotSwitch(
            instrument_id, f"[{to}] is disabled, so it would not be started", "Set enabled = true there."
        )
    if twin is None and instrument.is_foreign:
        raise CannotSwitch(
            instrument_id,
            f"{instrument.type} is a class from elsewhere, and nothing is known of its twin in {to}",
            f'Add a [[{to}.instruments]] with shadow_of = "{instrument_id}" and its class there.',
        )
    record = change_record(generation, "none" if evidence is None else _in_a_word(evidence))
    changed = {}
    for snapshot in snapshots:
        content = snapshot.content.decode("utf-8")
        # Some editors begin a file with a byte order mark; it stays, and is no TOML.
        mark = content[: content.startswith("\ufeff")]
        text = ConfigText(content.removeprefix(mark))
        if _edit(text, instrument_id, to, twin, record) and mark + text.text != content:
            changed[snapshot] = mark + text.text

    def check(drafts: Mapping[Path, Path]) -> None:
        candidates = [drafts.get(snapshot.path, path) for snapshot, path in zip(snapshots, files, strict=True)]
        try:
            result = load(candidates)
        except ConfigError as error:
            raise CannotSwitch(
                instrument_id,
                f"it would not be accepted in {to}: " + "; ".join(problem.message for problem in error.problems),
                "Change that first.",
            ) from error
        if to not in {its for its, i in result.instruments() if i.id == instrument_id}:
            raise CannotEdit(instrument_id, f"Moving to {to}")

    replace_files(changed, check)
    return Switched(
        instrument_id,
        generation,
        to,
        tuple(snapshot.path for snapshot in changed),
        twin.id if twin is not None else None,
        record["on"].isoformat(),
    )


def twin_of(config: DualConfig, instrument_id: str) -> InstrumentConfig | None:
    """Return the instrument of the other generation that shadows this one, also when it is disabled."""
    for generation in (config.v2, config.v4):
        for candidate in generation.instruments:
            if candidate.shadow_of == instrument_id:
                return candidate
    return None


def _in_use(config: DualConfig, instrument_id: str, to: Generation) -> tuple[InstrumentConfig, Generation]:
    every = {
        instrument.id: (instrument, name)
        for name, section in (("v2", config.v2), ("v4", config.v4))
        for instrument in section.instruments
    }
    if instrument_id not in every:
        raise CannotSwitch(instrument_id, "there is no such instrument", f"There are: {', '.join(every) or 'none'}.")
    instrument, generation = every[instrument_id]
    if instrument.shadow_of is not None:
        raise CannotSwitch(
            instrument_id,
            f"it is the shadow of {instrument.shadow_of!r}",
            f"Switch {instrument.shadow_of!r}: both change roles.",
        )
    if generation == to:
        raise CannotSwitch(instrument_id, f"it is {to} already", "See `tandem config status`.")
    if not instrument.enabled:
        raise CannotSwitch(instrument_id, "it is disabled", "Set enabled = true first.")
    return instrument, "v2" if generation == "v2" else "v4"


def _edit(
    text: ConfigText, instrument_id: str, to: Generation, twin: InstrumentConfig | None, record: dict[str, Any]
) -> bool:
    """Change one file; tell whether it says anything about the instrument or its twin."""
    has_instrument = text.find(instrument_id) is not None
    has_twin = twin is not None and text.find(twin.id) is not None
    if has_instrument:
        text.remove(instrument_id, "migrated")
    if twin is None:
        if has_instrument:
            if _is_defined_here(text, instrument_id):
                text.put(instrument_id, "migrated", record)
            text.move(instrument_id, to)
        return has_instrument
    if has_instrument:
        is_defined_here = _is_defined_here(text, instrument_id)
        text.put(instrument_id, "id", _DRAFT_ID)
        if is_defined_here:
            text.put(_DRAFT_ID, "shadow_of", instrument_id)
    if has_twin:
        text.put(twin.id, "id", instrument_id)
        text.remove(instrument_id, "shadow_of")
        text.remove(instrument_id, "enabled")
        if _is_defined_here(text, instrument_id):
            text.put(instrument_id, "migrated", record)
    if has_instrument:
        text.put(_DRAFT_ID, "id", twin.id)
    return has_instrument or has_twin


def _is_defined_here(text: ConfigText, instrument_id: str) -> bool:
    """Tell whether a file says what the instrument is, not only how it differs from an earlier file."""
    return any(settings.get("id") == instrument_id and "type" in settings for _, _, settings in text.instruments())


def _in_a_word(found: Evidence) -> str:
    return "none" if found.is_missing else found.verdict
