"""A token bucket: so many at once, and one more every so many seconds. Pure: time comes in as ``now``."""

from __future__ import annotations


class Bucket:
    """Begins full, with ``size``; one more comes ``every`` seconds."""

    def __init__(self, size: int, *, every: float) -> None:
        self._size = size
        self._every = every
        self._left = float(size)
        self._counted_at: float | None = None

    def count(self, now: float) -> int:
        """How many there are to take."""
        if self._counted_at is not None:
            self._left = min(self._size, self._left + (now - self._counted_at) / self._every)
        self._counted_at = now
        return int(self._left)

    def has_one(self, now: float) -> bool:
        """Whether there is one to take."""
        return self.count(now) >= 1

    def take(self, now: float) -> bool:
        """Take one, where there is one."""
        if not self.has_one(now):
            return False
        self._left -= 1
        return True

    def give(self) -> None:
        """Give one back."""
        self._left = min(self._size, self._left + 1)
