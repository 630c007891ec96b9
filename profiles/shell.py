"""`tandem shell`: IPython with a session, its devices by name, plans and short commands."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from coexistence.runtime.termination import EXIT_CODE
from profiles.console import say
from profiles.prompt_names import PARTS, PLAN_MODULES, plan_names, prompt_names
from profiles.session import Session

CONNECT_WAIT_S = 2.0
"""How long the prompt waits for instruments; slower ones report when they are there."""

COMMANDS = "%mov %movr %ct %wa %wires %health %runs"


def start_shell(config: str | Sequence[str], *, simulate: bool, data_dir: Path | None) -> int:
    """Open a session and hand it to IPython; the session ends with the prompt. Returns the exit code.

    Parameters
    ----------
    config
        TOML file or name of a profile, or several, of which later ones go over earlier ones.
    simulate
        Put simulated instruments in place of all wires.
    data_dir
        Where runs are kept.
    """
    say(Console(), "Opening the session ...")
    prompt = Prompt.open(config, simulate=simulate, data_dir=data_dir)
    shells: list[Any] = []
    terminated = False

    def leave() -> None:
        nonlocal terminated
        terminated = True
        for shell in shells:
            shell.ask_exit()  # IPython goes on after a SystemExit in a cell

    with prompt.session:
        prompt.session.exit_on_sigterm(leave)
        from IPython.terminal.ipapp import TerminalIPythonApp

        app = TerminalIPythonApp.instance(display_banner=False)
        app.initialize(argv=[])
        prompt.equip(app.shell)
        prompt.print_banner()
        shells.append(app.shell)
        # Leaving collects garbage several times, and looking through all that was imported takes a second each time.
        gc.freeze()
        app.start()
    gc.freeze()
    return EXIT_CODE if terminated else 0


@dataclass
class Prompt:
    """A session at a prompt, and how long it took to open (s)."""

    session: Session
    took_s: float

    @classmethod
    def open(cls, config: str | Sequence[str], *, simulate: bool, data_dir: Path | None) -> Prompt:
        """Open a session for a prompt: it waits neither for slow instruments nor for the catalog.

        Raises
        ------
        ConfigError, DataDirectoryError
            As :meth:`profiles.session.Session.open`.
        """
        began = time.monotonic()
        session = Session.open(
            config, simulate=simulate, data_dir=data_dir, interrupt="pause", display=True, connect_wait=CONNECT_WAIT_S
        )
        return cls(session, time.monotonic() - began)

    def equip(self, shell: Any) -> None:
        """Give a shell the session's names and commands, and let `await` use the session's event loop."""
        from bluesky.run_engine import autoawait_in_bluesky_event_loop

        from profiles.magics import register

        # A device that connects while the names are put there is in one of the two, or in both.
        self.session.add_device_listener(lambda name, device: shell.push({name: device}, interactive=False))
        shell.push(prompt_names(self.session), interactive=False)
        register(shell, self.session)
        autoawait_in_bluesky_event_loop(shell)

    def print_banner(self) -> None:
        """Print what connected in what time, what failed and why, and which names are there."""
        console = Console()
        session = self.session
        width = max((len(name) for name in session.instruments), default=0)
        connecting = []
        for name, instrument in session.instruments.items():
            config = instrument.config
            if instrument.error is not None:
                continue
            state = f"{instrument.connect_time_s:5.2f} s" if name in session.devices else "   connecting ..."
            if name not in session.devices:
                connecting.append(name)
            say(
                console,
                f"  {name:<{width}}  {instrument.generation}  {config.type:<16} {config.wire or '':<24} {state}",
            )
        for failure in session.failures.values():
            say(console, f"  not connected: {failure}")
        where = "" if session.simulated is None else ", simulated"
        say(
            console,
            f"{session.config.application.name}{where}: {len(session.devices)} of {len(session.instruments)} "
            f"instruments after {self.took_s:.1f} s; runs go to {session.data_dir}",
        )
        if connecting:
            say(console, f"A line tells when {', '.join(connecting)} {'is' if len(connecting) == 1 else 'are'} there.")
        names = [*PARTS, *PLAN_MODULES, *session.devices]
        awaited = next((name for name in session.devices if session.instruments[name].generation == "v4"), None)
        console.print(
            f"Names: {', '.join(names)}\n"
            f"Plans: {', '.join(plan_names())}\n"
            f"Commands: {COMMANDS}; `malus?` tells about a plan"
            + (f", `await {awaited}.read()` works too." if awaited else "."),
            markup=False,
            highlight=False,
        )
