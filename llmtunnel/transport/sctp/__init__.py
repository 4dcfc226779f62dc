"""SCTP for data channels: RFC 9260, RFC 8260 and RFC 9653, and what WebRTC peers use of RFC 6525 and RFC 8831.

Pure: no sockets, no clock.

    association   the handshake, which packets are sent, timers, the end
    outbound      what is queued, in flight, lost and retransmitted
    turns         which stream's message is sent next
    inbound       what has arrived, and what is acknowledged
    congestion    how much may be in flight, and how fast it is sent
    pmtu          how long a packet may be
    packet        bytes to chunks, and back

Drive `association.Association` like `protocol.connection.Connection`. ``receive_packet(data, now)`` returns events,
``packet_to_send(now)`` returns what to send, and ``next_timer()`` and ``handle_timer(now)`` are the clock. DTLS below
encrypts and authenticates each packet (RFC 8261). So a packet that arrives comes from the peer: it may be hostile, but
it is not forged.
"""
