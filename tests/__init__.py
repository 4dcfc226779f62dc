"""Everything that is tested, a file per module."""
