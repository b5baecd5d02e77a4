"""The paper's Global Control Store: the state of a whole cluster.

Tables of nodes, jobs, actors, functions, objects and tasks, and the event log. Every table is a
pure core; `gcs_core` answers messages from them, `gcs_server` is the process around it.
"""
