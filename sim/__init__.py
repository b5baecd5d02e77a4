"""A whole node in one thread: the real cores, virtual time, simulated processes, one seed.

Not part of the package: no user needs it. Every change of a core runs it (tests/sim), and
``python -m sim --seed N`` tells the story of one run.
"""
