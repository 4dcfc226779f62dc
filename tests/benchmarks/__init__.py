"""What the tunnel costs, measured: ``python -m tests.benchmarks``.

Each figure starts real processes on loopback and measures the same thing direct and through the tunnel. ``channels``
measures bare data channels: ours, aiortc's, and those of wrtc and pylibdatachannel where these are installed. ``soak``
is no figure, and runs by name only: it says whether anything is lost while the small internet of `tests/netlab` fails
at random. pytest collects none of it but `test_smoke`.
"""
