"""What the tunnel costs, measured: ``python -m tests.benchmarks``.

Each figure starts real processes on loopback and measures the same thing direct and through the tunnel, some beside a
bare aiortc data channel as well. ``soak`` is no figure, and runs by name only: it says whether anything is lost while
the small internet of `tests/netlab` fails at random. pytest collects none of it but `test_smoke`.
"""
