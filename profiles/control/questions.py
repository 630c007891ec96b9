"""What a session answers on its control channel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from profiles.control.server import ControlServer
from profiles.progress import RunProgress
from profiles.wire_report import wires_as_json

if TYPE_CHECKING:
    from profiles.session import Session


def open_control_channel(session: Session) -> Callable[[], None]:
    """Let other terminals of the same user see into a session; return what ends that.

    The questions are `session` (who and where it is), `wires`, `health`, `plan` and
    `measurements` (those of the last seconds).

    Raises
    ------
    ControlDirectoryError, OSError
        There is no place for the socket.
    """
    began = time.time()
    progress = RunProgress()
    token = session.RE.subscribe(progress.document)

    def facts() -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "name": session.config.application.name,
            "state": session.manager.state.value,
            "configuration": [str(path) for path in session.config.files],
            "data_dir": str(session.data_dir),
            "simulated": session.simulated is not None,
            "began": began,
            "instruments": {name: status.state.value for name, status in session.manager.instruments.items()},
        }

    def plan() -> dict[str, Any]:
        return {"state": str(session.RE.state), **progress.as_json()}

    server = ControlServer(
        {
            "session": facts,
            "wires": lambda: wires_as_json(session.resources),
            "health": lambda: session.manager.check_health().as_json(),
            "plan": plan,
            "measurements": session.measurements.recent,
        }
    )
    server.start()

    def close() -> None:
        server.close()
        session.RE.unsubscribe(token)

    return close
