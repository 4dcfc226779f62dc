"""HTTP at both ends of the tunnel: the gateway's listener, and the origin's client towards the upstream."""
