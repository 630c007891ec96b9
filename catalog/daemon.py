"""The catalog daemon: one process per data directory that owns the tiled server and fills it from the journals.

``python -m catalog.daemon <data_dir>`` is started on demand by the sessions. It stops by itself when no session
holds a lease, everything is delivered and nobody asked to keep it.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from .directory import DataDirectory
from .dispatch import Deliveries
from .errors import DataDirectoryError
from .external import ExternalServer, ExternalServerWatch
from .launch import leases_held, start_daemon
from .locking import FileLock
from .server_process import ServerProcess

logger = logging.getLogger("catalog.daemon")

POLL_INTERVAL_S = 0.2
"""How often the leases and the server are looked at."""

DELIVERY_STOP_S = 5.0


class CatalogDaemon:
    """Keeps server and delivery going until nobody needs them."""

    def __init__(self, directory: DataDirectory) -> None:
        self.directory = directory
        self._told_to_stop = threading.Event()

    def run(self) -> None:
        """Serve; return when there is nothing left to do or a signal came."""
        self._forget_old_keep_mark()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._told_to_stop.set())
        external = ExternalServer.read(self.directory)
        server = (
            ExternalServerWatch(self.directory, external) if external is not None else ServerProcess(self.directory)
        )
        server.watch()
        deliveries = Deliveries(self.directory, server)
        deliveries.start()
        logger.info("The catalog daemon serves %s at %s", self.directory.root, server.url)
        try:
            alone_since: float | None = None
            while not self._told_to_stop.wait(POLL_INTERVAL_S):
                server.watch()
                if not deliveries.is_alive():
                    raise RuntimeError("The delivery of runs has ended by an error; the log has it.")
                if leases_held(self.directory) or self.directory.keep_mark.exists() or self.directory.lingers:
                    alone_since = None
                elif alone_since is None:
                    alone_since = time.monotonic()
                elif deliveries.idle_since_scan_at > alone_since or server.given_up:
                    break
        finally:
            deliveries.end(DELIVERY_STOP_S)
            server.stop()
            self.directory.keep_mark.unlink(missing_ok=True)
            self.directory.state_file.unlink(missing_ok=True)
            logger.info("The catalog daemon has stopped")

    @property
    def told_to_stop(self) -> bool:
        """Whether a signal ended it, rather than that nobody needed it."""
        return self._told_to_stop.is_set()

    def _forget_old_keep_mark(self) -> None:
        # The mark of a session that lives on was made for this daemon, any other for one that died.
        with contextlib.suppress(FileNotFoundError):
            try:
                os.kill(int(self.directory.keep_mark.read_text()), 0)
            except (ValueError, ProcessLookupError):
                self.directory.keep_mark.unlink()
            except PermissionError:
                pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon of one data directory; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m catalog.daemon", description=__doc__)
    parser.add_argument("data_dir", type=Path)
    directory = DataDirectory.at(parser.parse_args(arguments).data_dir)
    # Every request is either safe to lose or answered by writing the run again: nothing is retried blindly.
    os.environ["TILED_RETRY_ATTEMPTS"] = "1"
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("catalog").setLevel(logging.INFO)
    try:
        directory.create()
    except DataDirectoryError as error:
        logger.error("%s", error)
        return 1
    lock = FileLock(directory.daemon_lock)
    if not lock.acquire():
        return 0
    daemon = CatalogDaemon(directory)
    daemon.run()
    lock.release()
    # A session may have come after the last look and seen a daemon that was already leaving.
    if not daemon.told_to_stop and leases_held(directory):
        start_daemon(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
