"""Readers of a catalog that is being written: each goes on reading the latest runs until a file appears.

Usage: reading_session.py <data_dir> <file that ends it> <number of readers>

Prints "ready" for each reader and at last how often they read; ends with an error when any reading failed, or a run
lost rows it had.
"""

import sys
import threading
import traceback
from pathlib import Path

from catalog import open_catalog

data_dir, stop, number = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
reads = [0] * number
failures = []


def read(which):
    try:
        catalog = open_catalog(data_dir, wait=60.0)
        sys.stdout.write("ready\n")  # in one piece, which print would not
        sys.stdout.flush()
        seen = {}
        while not stop.exists():
            for uid in list(catalog)[-2:]:
                run = catalog[uid]
                assert run.metadata["start"]["uid"] == uid
                if "primary" not in run or "internal" not in run["primary"].base:
                    continue
                rows = len(run["primary"].base["internal"].read(["seq_num"]))
                assert rows >= seen.get(uid, 0), f"{uid} had {seen[uid]} rows and has {rows}"
                seen[uid] = rows
                reads[which] += 1
    except Exception:
        failures.append(traceback.format_exc())


threads = [threading.Thread(target=read, args=(which,)) for which in range(number)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(*failures, sum(reads), sep="\n")
sys.exit(bool(failures))
