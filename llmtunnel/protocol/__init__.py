"""The protocol between two peers. Pure: bytes and ``now`` go in, events and bytes come out.

README.md in this directory is its specification. There is no asyncio, socket, clock or logging in this package.
"""
