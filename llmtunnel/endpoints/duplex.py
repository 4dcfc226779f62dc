"""Both directions of an exchange at once: one in the caller's task, the other beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from ..errors import TunnelError


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[Awaitable[None]]:
    """Run ``work`` as a task while the block runs; its end is awaited, and cut short where the block ends first.

    Where ``work`` raises, the block is cut short, and this raises the same. So a defect ends the exchange at once, and
    whoever owns the exchange logs it. Of two exceptions the defect counts, else the block's.
    """
    try:
        async with asyncio.TaskGroup() as both:
            task = both.create_task(work, name=name)
            yield task
            task.cancel()
    except BaseExceptionGroup as raised:
        last = raised.exceptions[-1]
        raise next((each for each in raised.exceptions if not isinstance(each, TunnelError)), last) from None
