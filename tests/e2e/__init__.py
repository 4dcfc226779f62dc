"""Real processes, real sockets: what a user gets."""
