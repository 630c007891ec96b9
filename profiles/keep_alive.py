"""Instruments that switch themselves off when nobody talks to them are talked to as long as the session lives."""

from __future__ import annotations

import logging
import threading
from typing import Any

from coexistence import AcquireTimeout, Rank
from coexistence.errors import CoexistenceError
from devices.dialogue import Dialogue
from devices.protocols.errors import ProtocolError

logger = logging.getLogger("profiles.keep_alive")

QUESTIONS_PER_SILENCE = 3
"""How often an instrument is asked in the time after which it would switch itself off."""


class KeepAlive:
    """Asks an instrument something in time, on a daemon thread, after everybody else on its wire.

    Parameters
    ----------
    name
        The instrument's id.
    dialogue
        Talks to the instrument.
    protocol
        Has `longest_silence_s` and `keep_alive()`.
    """

    def __init__(self, name: str, dialogue: Dialogue, protocol: Any) -> None:
        self._name = name
        self._dialogue = dialogue
        self._protocol = protocol
        self._over = threading.Event()
        threading.Thread(target=self._run, name=f"keep {name} alive", daemon=True).start()

    def end(self) -> None:
        """Ask no more; returns at once."""
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(self._protocol.longest_silence_s / QUESTIONS_PER_SILENCE):
            try:
                self._dialogue.hold(self._protocol.keep_alive, rank=Rank.BACKGROUND)
            except AcquireTimeout:
                pass  # others talk to it all the time
            except (CoexistenceError, ProtocolError) as error:
                logger.info("%s could not be kept alive: %s", self._name, error)
