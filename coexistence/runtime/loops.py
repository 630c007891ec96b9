"""The end of an event loop that runs on a thread of its own, whatever is still on it."""

from __future__ import annotations

import asyncio
import contextlib
import threading


def end_loop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, timeout: float) -> bool:
    """Cancel what is left on a loop, and end the loop and its thread.

    Parameters
    ----------
    loop, thread
        The loop, and the thread that runs it; not the calling one.
    timeout
        Seconds for each of the steps.

    Returns
    -------
    bool
        False when something blocks the loop: it and its thread are left behind then.
    """
    turns = threading.Event()
    loop.call_soon_threadsafe(turns.set)
    if turns.wait(timeout):
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(_finish(loop, timeout), loop).result(3 * timeout)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(timeout)
    if thread.is_alive():
        return False
    loop.close()
    return True


async def _finish(loop: asyncio.AbstractEventLoop, timeout: float) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        # Their errors are those of having been stopped; asyncio would report them as never looked at.
        for task in (await asyncio.wait(tasks, timeout=timeout))[0]:
            task.cancelled() or task.exception()
    for step in (loop.shutdown_asyncgens, loop.shutdown_default_executor):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(step(), timeout)
