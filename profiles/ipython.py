"""A session in any IPython or Jupyter: `%load_ext profiles.ipython`, then `%tandem bench.toml --simulate`.

In an IPython profile:

    c.InteractiveShellApp.extensions = ["profiles.ipython"]
    c.InteractiveShellApp.exec_lines = ["%tandem /path/to/bench.toml"]
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from profiles.session import Session

_KEY = "_tandem_session"


def load_ipython_extension(shell: Any) -> None:
    """Add the command `%tandem` to a shell."""

    @magic_arguments()
    @argument("config", nargs="?", default="sim", help="TOML file, or the name of a profile: sim, lab.")
    @argument("-s", "--simulate", action="store_true", help="Put simulated instruments in place of all wires.")
    @argument("-d", "--data-dir", default=None, help="Where runs are kept.")
    def tandem(line: str) -> None:
        """Open a session and put its devices, RE, plans and short commands at the prompt."""
        chosen = parse_argstring(tandem, _unquoted(line))
        open_session(
            shell,
            chosen.config,
            simulate=chosen.simulate,
            data_dir=None if chosen.data_dir is None else Path(chosen.data_dir),
        )

    shell.register_magic_function(tandem, magic_name="tandem")


def unload_ipython_extension(shell: Any) -> None:
    """Close the session that was opened with `%tandem`, if there is one."""
    session: Session | None = shell.user_ns_hidden.pop(_KEY, None)
    if session is not None:
        session.stop()


def open_session(shell: Any, config: str, *, simulate: bool, data_dir: Path | None) -> Session:
    """Open a session in a shell, in place of the one that was opened there before; prints what connected."""
    from profiles.shell import Prompt

    unload_ipython_extension(shell)
    prompt = Prompt.open(config, simulate=simulate, data_dir=data_dir)
    shell.user_ns_hidden[_KEY] = prompt.session
    prompt.equip(shell)
    prompt.print_banner()
    return prompt.session


def _unquoted(line: str) -> str:
    """Return the line with quoted words as the parser of magics takes them, spaces in paths included."""
    return " ".join(shlex.quote(word) for word in shlex.split(line))
