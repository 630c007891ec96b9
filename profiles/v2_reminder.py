"""Reminds a session's user, once, of the instruments that could be v4 by now."""

from __future__ import annotations

import logging
from pathlib import Path

from coexistence.config import DualConfig, InstrumentConfig
from devices import registry

logger = logging.getLogger("profiles.migration")


def remind_of_v2(config: DualConfig) -> None:
    """Warn once for each v2 instrument in use that has a twin in v4, with the command that moves it.

    The warning goes to the log and to the standard error output, as all warnings of a session. Profiles that come with
    the project are left alone: they show both generations on purpose.
    """
    packaged = Path(__file__).parent
    if any(packaged in path.resolve().parents for path in config.files):
        return
    files = " ".join(str(path) for path in config.files) or "FILE"
    for instrument in config.v2.active_instruments:
        if instrument.shadow_of is not None or not (has_v4_type(instrument) or _has_twin(config, instrument.id)):
            continue
        until = f", and is to be gone by {instrument.removal_date:%Y-%m-%d}" if instrument.removal_date else ""
        logger.warning(
            "%s is a v2 %s%s; as v4 it keeps its name and columns: tandem config cutover %s %s",
            instrument.id,
            instrument.type,
            until,
            instrument.id,
            files,
            extra={"event": "deprecated"},
        )


def has_v4_type(instrument: InstrumentConfig) -> bool:
    """Tell whether the type of an instrument exists in v4 as well."""
    return not instrument.is_foreign and instrument.type in registry.type_names()


def _has_twin(config: DualConfig, instrument_id: str) -> bool:
    return any(candidate.shadow_of == instrument_id for candidate in config.v4.instruments)
