"""The original's peers and signal server, rebuilt from the description of wire v1 to test against."""
