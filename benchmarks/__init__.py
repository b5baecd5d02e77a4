"""How fast skate is, beside what a user would pick instead: ``python -m benchmarks.compare``.

Not part of the package. ``rows`` says what is compared and what is demanded; ``operations`` does it
with Ray's API (so for skate and Ray alike), ``pool_operations`` and ``dask_operations`` with
theirs; ``measuring`` is the stopwatch that all three share; ``document`` writes docs/benchmarks.md.
"""
