"""The whole configuration: both generations, their instruments, and what they share."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

from coexistence.config.model import (
    GENERATIONS,
    ApplicationConfig,
    CatalogConfig,
    Generation,
    GenerationConfig,
    InstrumentCheck,
    InstrumentConfig,
    LineSettingsOf,
    Section,
    SimulationConfig,
)
from coexistence.config.presence import hardware_problems
from coexistence.config.reader import Reader
from coexistence.config.rules import problems_between_instruments, problems_found_by, storage_problems
from coexistence.config.source import Source
from coexistence.errors import ConfigError, Problem


class DualConfig(Section):
    """What is on the bench, in both generations.

    Use :meth:`load` for files and :meth:`from_mapping` for values made in code: both report every problem at once.
    """

    application: ApplicationConfig = ApplicationConfig()
    v2: GenerationConfig = GenerationConfig()
    v4: GenerationConfig = GenerationConfig()
    catalog: CatalogConfig = CatalogConfig()
    simulation: SimulationConfig = SimulationConfig()

    _source: Source = PrivateAttr(default_factory=Source)

    @classmethod
    def load(
        cls,
        *paths: str | os.PathLike[str],
        environment: Mapping[str, str] | None = None,
        check: InstrumentCheck | None = None,
        line_settings: LineSettingsOf | None = None,
    ) -> DualConfig:
        """Read one or several TOML files, later ones over earlier ones, and the environment over all.

        Sections are merged key by key, instruments by their id. A variable such as `TANDEM__V4__ENABLED=false`
        overrides `enabled` in `[v4]`, `TANDEM__V2__INSTRUMENTS__POWER__TIMEOUT=3` that of the instrument `power`.
        Relative directories are relative to the first file's folder.

        Parameters
        ----------
        paths
            At least one file.
        environment
            Variables to look into; `os.environ` unless given.
        check
            Asked for its findings about every instrument, so that unknown types and options are reported
            together with everything else.
        line_settings
            Returns how an instrument sets its serial line, defaults of its type included; those of the instruments
            on one port have to agree. Unless given, only what the file says is compared.

        Raises
        ------
        ConfigError
            With all problems of all files.
        """
        source = Source()
        for path in paths:
            source.add_file(Path(path))
        source.add_environment(os.environ if environment is None else environment)
        return cls._build(source, check, line_settings)

    @classmethod
    def from_mapping(
        cls,
        values: Mapping[str, Any],
        check: InstrumentCheck | None = None,
        line_settings: LineSettingsOf | None = None,
    ) -> DualConfig:
        """Check values made in code; they have the structure of the file.

        Raises
        ------
        ConfigError
            With all problems.
        """
        source = Source()
        source.merge(values)
        return cls._build(source, check, line_settings)

    @classmethod
    def _build(cls, source: Source, check: InstrumentCheck | None, line_settings: LineSettingsOf | None) -> DualConfig:
        reader = Reader(source)
        config = cls(
            application=reader.section(ApplicationConfig, "application"),
            v2=reader.generation("v2"),
            v4=reader.generation("v4"),
            catalog=reader.section(CatalogConfig, "catalog"),
            simulation=reader.section(SimulationConfig, "simulation"),
        )
        config._source = source
        problems = [*source.problems, *reader.unknown_sections(list(cls.model_fields)), *reader.problems]
        # Without a readable file there is nothing more to say about it.
        if not source.unreadable:
            problems += problems_between_instruments(config, source, line_settings)
            problems += storage_problems(config, source)
            if check is not None:
                problems += problems_found_by(check, config)
        if problems:
            raise ConfigError(*sorted(problems, key=source.by_place))
        return config

    def instruments(self) -> Iterator[tuple[Generation, InstrumentConfig]]:
        """Yield every instrument that is to be started, with its generation."""
        for generation in GENERATIONS:
            for instrument in self.generation(generation).active_instruments:
                yield generation, instrument

    def generation(self, name: Generation) -> GenerationConfig:
        """Return the section `[v2]` or `[v4]`."""
        return self.v2 if name == "v2" else self.v4

    def only(self, *ids: str) -> DualConfig:
        """Return the configuration with these instruments alone; an id that is none is left out."""
        kept: dict[str, Any] = {
            name: self.generation(name).model_copy(
                update={"instruments": tuple(i for i in self.generation(name).instruments if i.id in ids)}
            )
            for name in GENERATIONS
        }
        return self.model_copy(update=kept)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files this configuration was read from."""
        return tuple(self._source.files)

    @property
    def catalog_directory(self) -> Path | None:
        """Where runs are kept according to `[catalog]`, as an absolute path; None when the file leaves it open."""
        return self._absolute(self.catalog.directory)

    @property
    def catalog_key_file(self) -> Path | None:
        """The file with the key of an external catalog server, as an absolute path."""
        return self._absolute(self.catalog.key_file)

    @property
    def storage_directories(self) -> dict[Generation, Path | None]:
        """Where each generation keeps files according to `storage`, as absolute paths."""
        return {name: self._absolute(self.generation(name).storage) for name in GENERATIONS}

    def _absolute(self, directory: Path | None) -> Path | None:
        return None if directory is None else self._source.folder / directory.expanduser()

    @property
    def fingerprint(self) -> str:
        """A hash of every setting: equal for configurations that mean the same, whatever their files look like."""
        settings = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(settings.encode()).hexdigest()

    def location(self, generation: Generation, instrument_id: str, key: str = "") -> str:
        """Return `file:line` of an instrument or one of its settings; empty when it was not read from a file."""
        return self._source.location(self._source.instrument_path(generation, instrument_id, key))

    def location_of(self, *keys: str) -> str:
        """Return `file:line` of a setting outside of instruments, or of what is around it."""
        return self._source.location(keys)

    def hardware_problems(self) -> list[Problem]:
        """Look for the serial ports of all enabled instruments; return those missing and those closed to this user.

        A bench that is always simulated needs none.
        """
        return [] if self.simulation.always else list(hardware_problems(self))
