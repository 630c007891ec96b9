"""A process that answers on several ptys at once, each line by ``R`` and the line: the benchmarks' counterpart.

``python -m benchmarks.pty_instrument NUMBER`` prints the slaves' paths as one JSON line and ends with its input.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import subprocess
import sys
import tty
from collections.abc import Iterator

from benchmarks.harness import pin


@contextlib.contextmanager
def instruments(number: int) -> Iterator[list[str]]:
    """Start the process and yield the paths of its ports."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.pty_instrument", str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(5)
        process.stdout.close()


def answer(number: int) -> None:
    """Serve until standard input ends."""
    pin(1)
    poller = select.poll()
    poller.register(0, select.POLLIN)
    paths = []
    masters: dict[int, bytes] = {}
    slaves = []
    for _ in range(number):
        master, slave = pty.openpty()
        tty.setraw(slave)
        slaves.append(slave)
        paths.append(os.ttyname(slave))
        masters[master] = b""
        poller.register(master, select.POLLIN)
    print(json.dumps(paths), flush=True)
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == 0:
                return
            data = masters[descriptor] + os.read(descriptor, 4096)
            *lines, masters[descriptor] = data.split(b"\n")
            if lines:
                os.write(descriptor, b"".join(b"R" + line + b"\n" for line in lines))


if __name__ == "__main__":
    answer(int(sys.argv[1]))
