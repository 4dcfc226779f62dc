"""A token bucket. Pure: the caller passes the time as ``now``."""

from __future__ import annotations


class Bucket:
    """A bucket that starts full with ``size`` tokens, and gets one more every ``every`` seconds."""

    def __init__(self, size: int, *, every: float) -> None:
        self._size = size
        self._every = every
        self._left = float(size)
        self._counted_at: float | None = None

    def count(self, now: float) -> int:
        """Return the number of available tokens."""
        if self._counted_at is not None:
            self._left = min(self._size, self._left + (now - self._counted_at) / self._every)
        self._counted_at = now
        return int(self._left)

    def has_one(self, now: float) -> bool:
        """Whether a token is available."""
        return self.count(now) >= 1

    def take(self, now: float) -> bool:
        """Take a token if one is available. Returns whether it was."""
        if not self.has_one(now):
            return False
        self._left -= 1
        return True

    def give(self) -> None:
        """Return a token to the bucket."""
        self._left = min(self._size, self._left + 1)
