"""What a start document says about the instruments of a run."""

from __future__ import annotations

import contextlib
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any

from profiles.instruments import Instrument


def facts_of(instrument: Instrument) -> dict[str, Any]:
    """Return what a start document says about an instrument that took part."""
    config, device = instrument.config, instrument.device
    device_class = type(device)
    facts: dict[str, Any] = {
        "generation": instrument.generation,
        "type": config.type,
        "driver": f"{device_class.__module__}.{device_class.__qualname__}",
        "driver_version": _version_of(device_class.__module__),
        "wire": config.wire,
    }
    if identity := _identity_of(device):
        facts["identity"] = identity
    if config.migrated is not None:
        facts["migrated"] = config.migrated.model_dump(mode="json", by_alias=True)
    return {key: value for key, value in facts.items() if value is not None}


def _identity_of(device: Any) -> str:
    """Return what the instrument said it is: v2 drivers know it, and the connectors of v4 devices."""
    for holder in (getattr(device, "driver", None), getattr(device, "_connector", None)):
        if isinstance(identity := getattr(holder, "identity", None), str):
            return identity
    return ""


def _version_of(module: str) -> str | None:
    package = module.partition(".")[0]
    # Packages that are installed for development are in no list of installed files.
    names = ["ophyd-tandem"] if package == "devices" else packages_distributions().get(package, [package])
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return None
