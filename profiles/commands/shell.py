"""The command `tandem shell`."""

from __future__ import annotations

from profiles.commands.options import Configurations, DataDirectory, Simulate, finish


def shell(config: Configurations = None, simulate: Simulate = False, data_dir: DataDirectory = None) -> None:
    """Start IPython with a session: RE, devices, catalog, plans and every device by its name."""
    from profiles.shell import start_shell

    finish(lambda: start_shell(config or "sim", simulate=simulate, data_dir=data_dir))
