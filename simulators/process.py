"""The simulators seen from the process that starts them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Any

from .errors import SimulatorError, SpecError


class SimulatorProcess:
    """Simulated instruments in a process of their own, for the length of a `with` block.

    The process ends with the block, and also when this process ends in any other way, killed included.
    All methods may be called from any thread; a request takes the other process a few milliseconds.

    Args:
        spec: what to simulate, see `simulators.build_spec`.
        start_timeout: seconds the process may take to be ready.

    Attributes:
        ports: what to open, by the wire's name: the path of a pty, or `host:port`.
        pid: of the process.
    """

    def __init__(self, spec: dict[str, Any], *, start_timeout: float = 15.0) -> None:
        self.spec = spec
        self.ports: dict[str, str] = {}
        self.pid: int | None = None
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: str | None = None
        self._buffer = bytearray()
        self._lock = threading.Lock()
        self._requests = 0

    def __enter__(self) -> SimulatorProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the process and wait until its ports can be opened.

        Raises:
            SpecError: the specification asks for something that does not exist.
            SimulatorError: the process did not get ready in time.
        """
        if self._process is not None:
            raise SimulatorError("the simulators are already running")
        self._process = subprocess.Popen(
            # -P: a `random.py` in the user's folder is none of the simulators' business.
            [sys.executable, "-P", "-m", "simulators"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C in a terminal reaches a whole process group, also while the simulators are not ready to ignore it.
            process_group=0 if os.name == "posix" else None,
        )
        try:
            self._write(self.spec)
            ready = self._read(self._start_timeout)
        except BaseException:
            self.close()
            raise
        if not ready.get("ready"):
            self.close()
            raise SpecError(ready.get("error", "the simulators did not start"))
        self.ports = ready["ports"]
        self.pid = ready["pid"]
        self._directory = ready["directory"]

    def close(self) -> None:
        """End the process and wait until it has gone; its ports vanish."""
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if self._directory is not None:
                # Only left over when the process was killed.
                shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def truth(self) -> dict[str, Any]:
        """Ask for the true state: `bench`, `instruments` and `wires`, the latter two by name."""
        result: dict[str, Any] = self._request(do="truth")
        return result

    def fault(self, target: str, kind: str, *, count: int | None = 1, **parameters: Any) -> None:
        """Let something go wrong from now on.

        Args:
            target: name of a wire or an instrument. What a wire's fault spoils is the next of any instrument on it.
            kind: `silence`, `late` (`delay_s`, in simulated seconds), `garbage` (`data`) and `drop` (`number` bytes,
                `at` an index) happen to replies; `echo` to commands; `lose` to bytes on their way to the
                instrument; `busy`, `limit`, `over_range`, `saturation`, `error` (`code`) and `button` (`jog`: `fw`
                or `bw`) to instruments that know them.
            count: how many times; None until `clear_faults()`.
            **parameters: as named above.

        Raises:
            SimulatorError: there is no such target, fault or parameter.
        """
        self._request(do="fault", target=target, kind=kind, count=count, **parameters)

    def clear_faults(self, target: str | None = None, kind: str | None = None) -> None:
        """End faults: of one wire or instrument or of all, of one kind or of all."""
        self._request(do="clear", target=target, kind=kind)

    def unplug(self, wire: str) -> None:
        """Pull a wire's plug: its port vanishes under whoever has it open; the instruments live on."""
        self._request(do="unplug", wire=wire)

    def replug(self, wire: str) -> None:
        """Plug a wire in again: its port is back under the same path or address."""
        self._request(do="replug", wire=wire)

    def power(self, instrument: str, on: bool) -> None:
        """Switch an instrument off (it says nothing, motion ends) or on (in its power-up state)."""
        self._request(do="power", instrument=instrument, on=on)

    def set(self, target: str, **values: Any) -> None:
        """Change the true state of an instrument, or of the `bench`, as a hand would."""
        self._request(do="set", target=target, values=values)

    def _request(self, **request: Any) -> Any:
        with self._lock:
            self._requests += 1
            self._write({"id": self._requests, **request})
            answer = self._read(10.0)
            while answer.get("id") != self._requests:
                answer = self._read(10.0)
        if not answer["ok"]:
            raise SimulatorError(answer["error"])
        return answer["result"]

    def _write(self, message: dict[str, Any]) -> None:
        if self._process is None or self._process.stdin is None:
            raise SimulatorError("the simulators are not running")
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise SimulatorError("the simulators have gone") from error

    def _read(self, timeout: float) -> dict[str, Any]:
        if self._process is None or self._process.stdout is None:
            raise SimulatorError("the simulators are not running")
        deadline = time.monotonic() + timeout
        fd = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise SimulatorError(f"the simulators gave no answer within {timeout:g} s")
            data = os.read(fd, 65536)
            if not data:
                raise SimulatorError("the simulators have gone")
            self._buffer += data
        end = self._buffer.index(b"\n")
        message: dict[str, Any] = json.loads(self._buffer[:end])
        del self._buffer[: end + 1]
        return message
