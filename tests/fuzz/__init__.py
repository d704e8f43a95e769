"""Fuzzing: one table of targets for everything that foreign bytes reach (``tests.fuzz.targets``).

    python -m tests.fuzz                         every target for ten seconds, guided by coverage (needs the extra ``fuzz``)
    python -m tests.fuzz spec note --seconds 600

The bounded run of every test run is ``tests/property/test_fuzz.py``; inputs that failed once are in ``tests/vectors/fuzz``.
"""
