"""Waiting on an event loop for what goes on elsewhere."""

from __future__ import annotations

import asyncio
from typing import Any


async def ended(status: Any) -> None:
    """Return when a status of either generation has ended well.

    Raises
    ------
    Exception
        What made it fail. Cancelled, what it stands for goes on.
    """
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    status.add_callback(lambda _: loop.call_soon_threadsafe(done.set))
    await done.wait()
    if (error := status.exception(timeout=0)) is not None:
        raise error
