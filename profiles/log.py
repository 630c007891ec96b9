"""Where a session's log goes: a file in the data directory, and to the terminal what the user must know."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

OWN_LOGGERS = ("catalog", "coexistence", "devices", "plans", "profiles")
LIBRARY_LOGGERS = ("bluesky", "ophyd", "ophyd_async")
"""The RunEngine logs a traceback for each plan that ends early; the user gets the exception itself."""


def log_to_file(folder: Path, level: str) -> Callable[[], None]:
    """Write a log file for this session; returns what ends it.

    Parameters
    ----------
    folder
        Where the file goes; made when missing. Its name has the date and the process.
    level
        `debug`, `info`, `warning`, `error` or `critical`, for the project's own loggers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{time.strftime('%Y-%m-%d')}-{os.getpid()}.log"
    file = logging.FileHandler(folder / name, encoding="utf-8", delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    terminal = logging.StreamHandler()
    terminal.addFilter(_concerns_the_user)
    previous = {name: logging.getLogger(name).level for name in OWN_LOGGERS}
    for name in OWN_LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(level.upper())
        logger.addHandler(file)
        logger.addHandler(terminal)
    for name in LIBRARY_LOGGERS:
        logging.getLogger(name).addHandler(file)

    def end() -> None:
        for name in (*OWN_LOGGERS, *LIBRARY_LOGGERS):
            logging.getLogger(name).removeHandler(file)
        for name, level in previous.items():
            logging.getLogger(name).removeHandler(terminal)
            logging.getLogger(name).setLevel(level)
        file.close()

    return end


def _concerns_the_user(record: logging.LogRecord) -> bool:
    """Let warnings pass, and the good news that a lost wire is back or a slow instrument connected."""
    return record.levelno >= logging.WARNING or getattr(record, "event", "") in ("back", "connected")
