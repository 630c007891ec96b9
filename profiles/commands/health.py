"""The command `tandem health`."""

from __future__ import annotations

from profiles.commands.options import Every, OfDataDirectory, OfSession, OneJson, Watch, finish


def health(
    session: OfSession = None,
    data_dir: OfDataDirectory = None,
    json: OneJson = False,
    watch: Watch = False,
    every: Every = 1.0,
) -> None:
    """Look into running sessions: how each instrument is, and what the session uses of the computer.

    Each instrument is asked on its wire when nobody else needs it. Exits with 0 when all are well, else with 1.
    """
    from profiles.look import look

    finish(
        lambda: look("health", session=session, data_dir=data_dir, json_output=json, watch=watch, every_s=every),
    )
