"""How far a cluster scales, in virtual time: the cores that ship, behind daemons that get tired.

``python -m sim.scale --nodes 100 --tasks 1000000``. Each node is a NodeCore, the GCS is a GcsCore;
what is simulated are processes, wires and the clock. Unlike in ``python -m sim``, nothing fails
here, and time is what counts: a daemon is a server that is busy for as long with each message as
was measured on real ones (costs.py).
"""
