"""The wheels of earlier versions, one of each, with which `tests/e2e/test_versions.py` shows that peers of different
versions work together.

They are kept here since a shallow clone or a source archive has no history to build them from. 0.1.0 was made of its
commit, 4ce0260, by ``pip wheel --no-deps .``; later ones are those of the release (``make dist``). They run on the
dependencies that the tests have: where these become newer than an earlier version permits, or are no longer needed, it
must get an environment of its own.
"""
