"""What the tunnel costs, measured: ``python -m tests.benchmarks``.

Each figure starts real processes on loopback and measures the same thing direct and through the tunnel, some beside a
bare aiortc data channel as well. pytest collects none of it but `test_smoke`.
"""
