"""The command `tandem wires`."""

from __future__ import annotations

from profiles.commands.options import Every, OfDataDirectory, OfSession, OneJson, Watch, finish


def wires(
    session: OfSession = None,
    data_dir: OfDataDirectory = None,
    json: OneJson = False,
    watch: Watch = False,
    every: Every = 1.0,
) -> None:
    """Look into running sessions: who holds each wire, who waits for it since when, and what went wrong on it.

    A wire is a serial port or a VISA resource. Looking changes nothing in the session. Exits with 1 when no session
    is running.
    """
    from profiles.look import look

    finish(
        lambda: look("wires", session=session, data_dir=data_dir, json_output=json, watch=watch, every_s=every),
    )
