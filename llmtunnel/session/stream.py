"""One HTTP exchange on a session: see ARCHITECTURE.md, "The seams" (being written)."""
