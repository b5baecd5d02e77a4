"""The paper's in-memory distributed object store.

One node's share of it is an arena of shared memory, a table of the objects in it, the transfers
that bring objects in from other nodes, and the counts that say when an object may go.
"""
