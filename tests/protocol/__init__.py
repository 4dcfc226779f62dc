"""The wire, without a socket."""
