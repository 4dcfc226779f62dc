"""Fuzzing: ``python -m tests.fuzz [--seconds N] [--seed S] [--target NAME]``.

The one invariant: whatever comes is accepted, or refused by the error that is documented for it; nothing else happens.
"""
