"""`tandem demo`: both generations on one wire in one scan, then its query from the catalog, on simulated hardware."""

from __future__ import annotations

import json
import time
from pathlib import Path

from rich.console import Console

from profiles.console import say

METERS = ("power_v2", "power_v4")
ROTATOR = "polarizer"
SHOWN = (*METERS, "hwp", ROTATOR)
"""The part of the profile `sim` that the demonstration is about."""


def run_demo(*, data_dir: Path, json_output: bool, keep: bool) -> int:
    """Scan, query and report; return the exit code.

    Parameters
    ----------
    data_dir
        Where the run, the picture and the catalog are kept; runs of earlier demonstrations stay.
    json_output
        Print one JSON object as the last line of the output, and everything else to stderr.
    keep
        Leave the catalog's server running.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C: the rotator stands, the run is closed as aborted, and what was measured goes to the catalog.
    """
    began = time.monotonic()
    console = Console(stderr=json_output)
    say(
        console,
        "A simulated bench: laser, polarizer in an ELL14 rotator, 1830-C power meter, all on pseudo-terminals.\n"
        "The old (v2) and the new (v4) driver of the meter share one port. Connecting ...",
    )
    # Bluesky and both generations of ophyd take a second or two; the user reads meanwhile.
    import catalog
    from profiles.configuration import load_configuration
    from profiles.malus_report import draw
    from profiles.run import print_report, scan_malus
    from profiles.session import Session

    config = load_configuration("sim").only(*SHOWN)
    with Session.open(config, simulate=True, data_dir=data_dir, strict=True) as session:
        session.exit_on_sigterm()
        for name, instrument in session.instruments.items():
            say(
                console,
                f"  {name:<10} {instrument.generation} {instrument.config.type} on {instrument.config.wire}, "
                f"connected in {instrument.connect_time_s:.2f} s",
            )
        try:
            report = scan_malus(session, METERS, ROTATOR, console)
        except KeyboardInterrupt:
            say(console, "Stopped. The run is closed as aborted; the catalog gets what was measured.")
            raise
        plot = session.data_dir / "plots" / f"malus-{report.scan_id}.png"
        draw(report, plot)
        address = session.capture.web_address()
        duration = time.monotonic() - began
        say(console, "\nFrom the catalog:")
        print_report(report, console)
        say(
            console,
            f"picture           {plot}\n"
            f"web page          {address} (key: {session.capture.directory.key_file})\n"
            f"demo took         {duration:.1f} s",
        )
        if keep:
            session.capture.keep()
            say(console, f"The catalog stays; stop it with: tandem catalog stop --data-dir {session.data_dir}")
    if not keep:
        catalog.shut_down(data_dir)
    if json_output:
        print(
            json.dumps(
                {
                    **report.as_json(),
                    "plot": str(plot),
                    "data_dir": str(session.data_dir),
                    "web": address if keep else None,
                    "duration_s": round(duration, 3),
                }
            )
        )
    return 0
