"""Asks databroker for the latest scan of the polarizer: `python last_table.py DATA_DIRECTORY`."""

import json
import sys

from catalog import open_catalog

db = open_catalog(sys.argv[1]).v1
header = db(plan_name="scan", sample="linear polarizer")
latest = next(iter(header))
table = latest.table()
primary = next(descriptor for descriptor in latest.descriptors if descriptor["name"] == "primary")
print(
    json.dumps(
        {
            "uid_matches": db[latest.start["uid"]].start["uid"] == latest.start["uid"],
            "exit_status": latest.stop["exit_status"],
            "columns": sorted(column for column in table.columns if column != "time"),
            "dtypes": {column: str(dtype) for column, dtype in table.dtypes.items() if column != "time"},
            "rows": table[["polarizer", "power_power"]].round(9).to_dict("list"),
            "units": primary["data_keys"]["power_power"]["units"],
        }
    )
)
