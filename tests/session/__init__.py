"""Sessions over the memory channel."""
