"""Scripts of those who maintain llmtunnel. They use the standard library alone, and are not in the wheel."""
