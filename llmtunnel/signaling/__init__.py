"""How two peers find each other: messages (pure), negotiation (pure), and the WebSocket client."""
