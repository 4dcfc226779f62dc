"""The wire between two peers, pure: bytes and ``now`` in, events and bytes out.

README.md beside this is its specification. No asyncio, no sockets, no clock, no logging in here.
"""
