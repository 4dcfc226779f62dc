"""Our side of signalling."""
