"""A small internet of network namespaces, for tests of what crosses a network: `netlab.py -h` tells how."""
