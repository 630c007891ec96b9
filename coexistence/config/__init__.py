"""The configuration of a bench: TOML files in, one checked :class:`DualConfig` out.

Loading checks everything that the files can tell and reports all problems together, each with a suggestion and
`file:line`. Whether ports exist is not asked then but by :meth:`DualConfig.hardware_problems`, because a
configuration is also read on machines that have none of the hardware.
"""

from coexistence.config.dual import DualConfig
from coexistence.config.model import (
    GENERATIONS,
    LINE_SETTINGS,
    WIRE_KEYS,
    ApplicationConfig,
    CatalogConfig,
    Finding,
    Generation,
    GenerationConfig,
    InstrumentConfig,
    SimulationConfig,
)
from coexistence.config.presence import port_access_remedy
from coexistence.config.source import ENVIRONMENT_PREFIX

__all__ = [
    "ENVIRONMENT_PREFIX",
    "GENERATIONS",
    "LINE_SETTINGS",
    "WIRE_KEYS",
    "ApplicationConfig",
    "CatalogConfig",
    "DualConfig",
    "Finding",
    "Generation",
    "GenerationConfig",
    "InstrumentConfig",
    "SimulationConfig",
    "port_access_remedy",
]
