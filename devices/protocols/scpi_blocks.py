"""Many numbers in one reply: binary blocks of definite length, lists of decimals, and the waveforms they carry.

Source: IEEE 488.2, definite-length arbitrary block response data; SCPI-1999, ``FORMat`` subsystem.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from devices.protocols import numbers
from devices.protocols.errors import UnexpectedReply

TERMINATOR = b"\n"

Samples: TypeAlias = npt.NDArray[np.float64]
Encoding = Literal["ascii", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32"]
ByteOrder = Literal["big", "little"]


def block_end(received: bytes, terminator: bytes = TERMINATOR) -> int:
    """Return where the reply with a definite-length block (``#3128...``) ends, its terminator included; 0 for not yet.

    A reply that is no block ends at the first terminator.
    """
    if not received.startswith(b"#"[: len(received)]) or (len(received) > 1 and received[1:2] not in b"123456789"):
        return _line_end(received, terminator)
    if len(received) < 2:
        return 0
    digits = int(received[1:2])
    header = received[2 : 2 + digits]
    if len(header) < digits:
        return 0
    if not header.isdigit():
        return _line_end(received, terminator)
    end = 2 + digits + int(header) + len(terminator)
    return end if len(received) >= end else 0


def _line_end(received: bytes, terminator: bytes) -> int:
    found = received.find(terminator)
    return 0 if found < 0 else found + len(terminator)


def parse_block(reply: bytes, instrument: str, command: bytes = b"", terminator: bytes = TERMINATOR) -> bytes:
    """Return the data of a definite-length block.

    Raises
    ------
    UnexpectedReply
        When it is no complete block.
    """
    digits = reply[1:2]
    if reply[:1] == b"#" and digits and digits in b"123456789":
        start = 2 + int(digits)
        length = reply[2:start]
        if len(length) == int(digits) and length.isdigit():
            data = reply[start : start + int(length)]
            if len(data) == int(length) and reply[start + len(data) :] in (b"", terminator):
                return data
    raise UnexpectedReply("a binary block", instrument=instrument, command=command, reply=reply[:40])


@dataclass(frozen=True, kw_only=True)
class Waveform:
    """How an instrument sends the samples of a waveform.

    Parameters
    ----------
    points
        How many samples there are: the column's shape, which stays the same for a whole run.
    encoding
        ``ascii`` for decimals with commas between them, else the type of each sample in a binary block.
    byte_order
        Of the samples in a block: ``big`` is SCPI's ``FORM:BORD NORM``, ``little`` its ``SWAP``.
    scale, offset
        A sample's value is ``raw * scale + offset``, in the units of the column.
    """

    points: int
    encoding: Encoding = "float32"
    byte_order: ByteOrder = "big"
    scale: float = 1.0
    offset: float = 0.0

    def ending(self, terminator: bytes) -> Callable[[bytes], int] | None:
        """Return what finds the end of a reply; None where that is the terminator."""
        return None if self.encoding == "ascii" else partial(block_end, terminator=terminator)

    def parse(self, reply: bytes, instrument: str, command: bytes, terminator: bytes = TERMINATOR) -> Samples:
        """Return the samples, ``points`` of them, as 64 bit floats.

        Raises
        ------
        UnexpectedReply
            When these are not that many samples in this encoding.
        """
        raw = (
            self._decimals(reply) if self.encoding == "ascii" else self._binary(reply, instrument, command, terminator)
        )
        if raw is None or len(raw) != self.points:
            found = "" if raw is None else f", not {len(raw)}"
            raise UnexpectedReply(
                f"{self.points} samples of {self.encoding}{found}",
                instrument=instrument,
                command=command,
                reply=reply[:40],
            )
        return raw * self.scale + self.offset

    def _decimals(self, reply: bytes) -> Samples | None:
        try:
            return np.array([numbers.decimal(sample) for sample in reply.split(b",")], dtype=np.float64)
        except ValueError:
            return None

    def _binary(self, reply: bytes, instrument: str, command: bytes, terminator: bytes) -> Samples | None:
        data = parse_block(reply, instrument, command, terminator)
        sample = np.dtype(self.encoding).newbyteorder(">" if self.byte_order == "big" else "<")
        return None if len(data) % sample.itemsize else np.frombuffer(data, sample).astype(np.float64)
