"""Turns the polarizer and reads the power, by names of the session: `tandem run scan_polarizer.py`."""

import json

import bluesky.plan_stubs as bps
import bluesky.plans as bp

streams = {}
rows = []


def take_note(name, doc):
    if name == "descriptor":
        streams[doc["uid"]] = doc["name"]
    elif name == "event" and streams[doc["descriptor"]] == "primary":
        rows.append(doc["data"])


RE.md["sample"] = "linear polarizer"  # noqa: F821
RE(bp.scan([power], polarizer, 0, 60, 4), take_note)  # noqa: F821
RE(bps.mv(polarizer, 30))  # noqa: F821
position = RE(bps.rd(polarizer)).plan_result  # noqa: F821
print(json.dumps({"columns": sorted(rows[0]), "rows": rows, "position": position}))
