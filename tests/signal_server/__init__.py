"""The signal server, by itself."""
