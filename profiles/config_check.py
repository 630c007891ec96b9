"""`tandem config check`: all problems of a configuration, for people and for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from coexistence.config import DualConfig
from coexistence.errors import ConfigError, Problem
from profiles.configuration import load_configuration


def check_files(files: Sequence[str], *, json_output: bool, hardware: bool) -> int:
    """Check configuration files together and print what is wrong; return the exit code.

    Parameters
    ----------
    files
        TOML files or names of profiles, later ones over earlier ones.
    json_output
        Print `{"ok": ..., "problems": [{"message", "suggestion", "location"}, ...]}` instead of text.
    hardware
        Whether a serial port that is not there is a problem.
    """
    problems: Sequence[Problem] = ()
    instruments = 0
    try:
        config = load_configuration(*files)
    except ConfigError as error:
        problems = error.problems
    else:
        instruments = len(list(config.instruments()))
        problems = [*_simulation_problems(config), *(config.hardware_problems() if hardware else ())]
    if json_output:
        found = [vars(problem) for problem in problems]
        print(json.dumps({"ok": not problems, "instruments": instruments, "problems": found}))
    else:
        for problem in problems:
            print(problem, file=sys.stderr)
        if not problems:
            print(f"{', '.join(files)}: nothing is wrong; {instruments} instruments")
    return 1 if problems else 0


def _simulation_problems(config: DualConfig) -> Sequence[Problem]:
    """Return what is wrong with what stands in for the wires, if the files say anything of it."""
    if not config.simulation.bench and not any(instrument.simulation for _, instrument in config.instruments()):
        return ()
    from profiles.simulation import SimulatedBench

    try:
        SimulatedBench(config)
    except ConfigError as error:
        return error.problems
    return ()
