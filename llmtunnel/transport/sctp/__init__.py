"""SCTP for data channels, pure: no sockets, no clock. RFC 9260, with what WebRTC peers use of RFC 6525 and RFC 8831.

    association   the handshake, which packets go out, timers, the end
    outbound      what is queued, on its way, lost, and sent again
    turns         which stream's message goes out next
    inbound       what has come, and what is acknowledged
    congestion    how much may be on its way, and how fast it goes out
    pmtu          how long a packet may be
    packet        bytes to chunks, and back

`association.Association` is driven like `protocol.connection.Connection`: ``receive_packet(data, now)`` gives events,
``packet_to_send(now)`` what goes out, ``next_timer()`` and ``handle_timer(now)`` are the clock. DTLS below encrypts and
authenticates each packet (RFC 8261), so a packet that arrives is the peer's: it may be hostile, not forged.
"""
