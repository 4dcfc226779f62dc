"""Scripts for the maintainers of llmtunnel. They only use the standard library, and are not in the wheel."""
