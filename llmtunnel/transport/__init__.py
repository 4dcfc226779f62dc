"""Message channels between two peers: `base` says what one is, `webrtc` and `memory` are two."""
