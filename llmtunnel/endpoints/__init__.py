"""HTTP at both ends of the tunnel: the gateway's listener, and the origin's client for the upstream."""
