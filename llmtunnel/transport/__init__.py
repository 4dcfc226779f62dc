"""Message channels between two peers. `base` defines a channel; `webrtc`, `tcp`, `relay` and `memory` open them."""
