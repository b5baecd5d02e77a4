"""What a message costs the daemon that handles it, in CPU seconds, and how long it is under way.

The figures of the dataclass are one machine's: ``python -m benchmarks.daemon_costs`` measures
them anew, on real processes; ``--costs`` of ``python -m sim.scale`` takes others.

What a daemon pays for is frames, each with its system call and often a wake-up, and the messages in
them; a burst shares frames, a lone result does not. So both have a price of their own; and a frame
for which a daemon wakes up costs more than one that it comes to while it is busy.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """Seconds; CPU time unless it says otherwise."""

    frame_s: float = 45e-6  # of the node daemon, to read or write one frame of a local process
    busy_frame_s: float = 11e-6  # the same, when it is busy anyway: no wake-up
    line_frame_s: float = 49e-6  # likewise, of another node
    submit_s: float = 3.7e-6  # likewise, to take in one submitted task, beside its frames,
    run_s: float = 7.4e-6  # and to have it run by a worker and its result told
    forward_s: float = 0.9e-6  # instead, to send it to another node, and
    returned_s: float = 5.7e-6  # to take its result in, and tell
    guest_s: float = 5.0e-6  # of the node that it was sent to, to take it in, and
    guest_run_s: float = 11e-6  # to have it run and send its result back
    tick_s: float = 600e-6  # of a node daemon, for one heartbeat and what comes with it
    relay_s: float = 24e-6  # of the head's node, for one message of another node to or from the GCS
    relay_byte_s: float = 1.9e-9  # likewise, for each byte of task events in a message
    gcs_heartbeat_s: float = 35e-6  # of the GCS
    gcs_offer_s: float = 15e-6  # likewise, for an offer, and
    gcs_offer_node_s: float = 0.14e-6  # for each node that it may choose, and
    gcs_offer_place_s: float = 2.8e-6  # for each that it does choose
    gcs_events_s: float = 2.1e-6  # likewise, for a batch of task events, and
    gcs_event_byte_s: float = 2.3e-9  # for each of its bytes
    submitter_s: float = 8.0e-6  # of the program that submits, for one task
    worker_s: float = 157e-6  # of a worker, beside the task itself

    # Of a task that goes by a lane.
    lane_submit_s: float = 3.5e-6  # of the program that submits it, and
    lane_outcome_s: float = 3.9e-6  # to take in its result
    lane_worker_s: float = 7.9e-6  # of the worker, beside the task itself
    lane_frame_s: float = 4.0e-6  # of either, to write or read one frame while it is awake
    lane_row_s: float = 1.5e-6  # of the node daemon, to hear that it has run, beside the frame

    # Not CPU time, and not measured but chosen: a local socket with its two context switches, and
    # a network within one building.
    local_delay_s: float = 50e-6
    remote_delay_s: float = 250e-6


MEASURED = (
    "frame_s", "busy_frame_s", "line_frame_s", "submit_s", "run_s", "forward_s", "returned_s",
    "guest_s", "guest_run_s", "tick_s", "relay_s", "relay_byte_s",
    "gcs_heartbeat_s", "gcs_offer_s", "gcs_offer_node_s", "gcs_offer_place_s",
    "gcs_events_s", "gcs_event_byte_s",
    "submitter_s", "worker_s",
    "lane_submit_s", "lane_outcome_s", "lane_worker_s", "lane_frame_s", "lane_row_s",
)  # fmt: skip
"""The fields that a measurement fills in."""
