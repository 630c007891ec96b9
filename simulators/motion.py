"""Motion at real speed: profiles with limited velocity and acceleration, as functions of time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

_NO_DISTANCE = 1e-12
"""Shorter moves are none: their speeds would underflow."""


@dataclass(frozen=True)
class _Piece:
    starts: float
    position: float
    velocity: float
    acceleration: float

    def at(self, when: float) -> tuple[float, float]:
        elapsed = when - self.starts
        return (
            self.position + self.velocity * elapsed + self.acceleration * elapsed**2 / 2,
            self.velocity + self.acceleration * elapsed,
        )


class Profile:
    """One movement: pieces of constant acceleration, standing still before and after.

    Build it with `move()`, `brake()` or `stand()`.
    """

    def __init__(self, pieces: list[_Piece], ends: float, target: float) -> None:
        self._pieces = pieces
        self.ends = ends
        self.target = target

    def position(self, when: float) -> float:
        """Where it is at time `when`."""
        return self._state(when)[0]

    def velocity(self, when: float) -> float:
        """How fast it is at time `when`."""
        return self._state(when)[1]

    def moving(self, when: float) -> bool:
        """Whether the movement is still going on at time `when`."""
        return when < self.ends

    def reaches(self, position: float) -> float:
        """Find the earliest time at which it is at `position`; infinity when it never gets there."""
        for piece, following in pairwise([*self._pieces, _Piece(self.ends, self.target, 0.0, 0.0)]):
            low, high = piece.starts, following.starts
            start, end = piece.at(low)[0], piece.at(high)[0]
            if not min(start, end) <= position <= max(start, end):
                continue
            # No piece changes its direction, so that halving finds the only crossing.
            for _ in range(60):
                middle = (low + high) / 2
                if (piece.at(middle)[0] < position) == (start < end):
                    low = middle
                else:
                    high = middle
            return high
        return math.inf

    def _state(self, when: float) -> tuple[float, float]:
        if when >= self.ends:
            return self.target, 0.0
        current = self._pieces[0]
        for piece in self._pieces[1:]:
            if piece.starts > when:
                break
            current = piece
        return current.at(max(when, current.starts))


def stand(position: float) -> Profile:
    """No movement at all."""
    return Profile([_Piece(0.0, position, 0.0, 0.0)], 0.0, position)


def brake(when: float, position: float, velocity: float, deceleration: float) -> Profile:
    """From `velocity` to a stand."""
    duration = abs(velocity) / deceleration
    target = position + velocity * duration / 2
    return Profile([_Piece(when, position, velocity, -math.copysign(deceleration, velocity))], when + duration, target)


def move(
    when: float,
    position: float,
    target: float,
    *,
    speed: float,
    acceleration: float,
    deceleration: float | None = None,
    velocity: float = 0.0,
) -> Profile:
    """From `position` to `target` as fast as `speed` and the accelerations allow, beginning with `velocity`.

    A movement that begins in the wrong direction, or too fast to stop in time, brakes first and then comes back.
    """
    slowing = deceleration or acceleration
    distance = target - position
    braking = velocity * abs(velocity) / (2 * slowing)
    if velocity and (velocity * distance <= 0 or abs(braking) > abs(distance)):
        first = brake(when, position, velocity, slowing)
        rest = move(first.ends, first.target, target, speed=speed, acceleration=acceleration, deceleration=deceleration)
        return Profile([*first._pieces, *rest._pieces], rest.ends, target)
    if abs(distance) < _NO_DISTANCE:
        return Profile([_Piece(when, position, 0.0, 0.0)], when, target)
    sign = math.copysign(1.0, distance)
    start = abs(velocity)
    # Highest speed of a triangle that covers the distance; the trapezoid is cut off at `speed`.
    peak = math.sqrt((2 * abs(distance) + start**2 / acceleration) / (1 / acceleration + 1 / slowing))
    peak = min(peak, max(speed, start))
    pieces, now, here, speed_now = [], when, position, start
    speeding_s = (peak - start) / acceleration
    slowing_s = peak / slowing
    covered = (start + peak) / 2 * speeding_s + peak / 2 * slowing_s
    cruising_s = max(0.0, (abs(distance) - covered) / peak)
    for duration, rate in ((speeding_s, acceleration), (cruising_s, 0.0), (slowing_s, -slowing)):
        pieces.append(_Piece(now, here, sign * speed_now, sign * rate))
        here += sign * (speed_now * duration + rate * duration**2 / 2)
        speed_now += rate * duration
        now += duration
    return Profile(pieces, now, target)
