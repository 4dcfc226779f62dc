"""Run both directions of an exchange at once: one in the caller's task, the other in a second task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from ..errors import TunnelError


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[Awaitable[None]]:
    """Run ``work`` as a task within the context. When the block ends, cancel the task and wait for its end.

    If ``work`` raises, the block is cancelled, and this raises the same exception. So an internal error ends the
    exchange at once, and the owner of the exchange logs it. Of two exceptions, an internal error takes precedence.
    """
    try:
        async with asyncio.TaskGroup() as both:
            task = both.create_task(work, name=name)
            yield task
            task.cancel()
    except BaseExceptionGroup as raised:
        last = raised.exceptions[-1]
        raise next((each for each in raised.exceptions if not isinstance(each, TunnelError)), last) from None
