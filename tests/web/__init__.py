"""The JavaScript of llmtunnel/web: beside the Python core, and towards it."""
