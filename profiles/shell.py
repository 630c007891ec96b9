"""`tandem shell`: IPython with a session, its devices by name, plans and short commands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from profiles.console import say
from profiles.run import print_failures
from profiles.session import Session

PLAN_MODULES = {"bp": "bluesky.plans", "bps": "bluesky.plan_stubs", "bpp": "bluesky.preprocessors"}


def start_shell(config: str, *, simulate: bool, data_dir: Path | None) -> int:
    """Open a session and hand it to IPython; the session ends with the prompt. Returns the exit code.

    Parameters
    ----------
    config
        TOML file or name of a profile.
    simulate
        Put simulated instruments in place of all wires.
    data_dir
        Where runs are kept.
    """
    console = Console(highlight=False)
    console.print("Opening the session ...")
    began = time.monotonic()
    from bluesky.callbacks.best_effort import BestEffortCallback
    from IPython.terminal.ipapp import TerminalIPythonApp

    with Session.open(config, simulate=simulate, data_dir=data_dir, interrupt="pause") as session:
        table = BestEffortCallback()
        table.disable_plots()
        session.RE.subscribe(table)
        prompt = TerminalIPythonApp.instance(user_ns=shell_names(session), display_banner=False)
        prompt.initialize(argv=[])
        equip(prompt.shell, session)
        print_banner(session, time.monotonic() - began, console)
        prompt.start()
    return 0


def shell_names(session: Session) -> dict[str, Any]:
    """Return what a session puts at the prompt: itself, its parts, plans, and each device by its id."""
    from importlib import import_module

    import plans

    names: dict[str, Any] = {name: import_module(module) for name, module in PLAN_MODULES.items()}
    names |= {name: getattr(plans, name) for name in plans.__all__}
    parts = {
        "session": session,
        "RE": session.RE,
        "devices": session.devices,
        "catalog": LazyCatalog(lambda: session.catalog),
    }
    return {**names, **session.devices, **parts}


class LazyCatalog:
    """Stands for the catalog and opens it when it is used: the server need not be up when the prompt is.

    Parameters
    ----------
    open_catalog
        Returns the catalog, up to date with the last run.
    """

    def __init__(self, open_catalog: Callable[[], Any]) -> None:
        self._open_catalog = open_catalog

    def __getattr__(self, name: str) -> Any:
        # IPython asks every object for display methods and underscored names: that is no use of the catalog.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._open_catalog(), name)

    def __getitem__(self, key: Any) -> Any:
        return self._open_catalog()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._open_catalog())

    def __len__(self) -> int:
        return len(self._open_catalog())

    def __repr__(self) -> str:
        return repr(self._open_catalog())


def print_banner(session: Session, took_s: float, console: Console) -> None:
    """Print what connected in what time, what failed and why, and which names are there."""
    for name, instrument in session.instruments.items():
        config = instrument.config
        if instrument.error is None:
            what = f"{instrument.generation}  {config.type:<16} {config.wire or '':<24}"
            say(console, f"  {name:<16} {what} {instrument.connect_time_s:5.2f} s")
    print_failures(session, console)
    say(
        console,
        f"{session.config.application.name}: {len(session.devices)} of {len(session.instruments)} instruments "
        f"after {took_s:.1f} s; runs go to {session.data_dir}\n"
        f"Names: {', '.join(shell_names(session))}\n"
        "Short commands: %mov %movr %ct %wa; await device.read() works too.",
    )


def equip(shell: Any, session: Session) -> None:
    """Give an IPython shell the session's short commands, and let `await` use the session's event loop."""
    from bluesky.run_engine import autoawait_in_bluesky_event_loop

    from profiles.magics import SessionMagics

    shell.register_magics(SessionMagics(shell, session))
    autoawait_in_bluesky_event_loop(shell)
