"""A session over a channel: the mux that drives the protocol core, streams, and the peers of a room."""
