"""Every bound and time-out, with its unit and its reason. Nothing here is read from a file.

A name ends in its unit. Change a value here and nowhere else; a bound without a reason is a bug.
"""

from __future__ import annotations

import sys

# -- wire ------------------------------------------------------------------------------------
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"  # pickles do not cross minor versions
PROTOCOL_VERSION = 1  # compared at hello; a peer with another one is refused in a sentence
MAX_FRAME_BYTES = 64 << 20  # a function of up to MAX_FUNCTION_BYTES is chunked below this
HELLO_TIMEOUT_S = 5.0  # a stranger that connects and says nothing is closed after this
INLINE_MAX_BYTES = 100 << 10  # larger values go through the arena (Ray's value)
READ_TURN_BYTES = 1 << 20  # per connection and turn of the switch, so that it stays fair
UNREAD_MAX_BYTES = 16 << 20  # past this, a client that asks and does not read is heard no more
WRITE_BACKLOG_BYTES = 1 << 20  # past this, pushes to a client that does not read are held back

# -- a client's outbox --------------------------------------------------------------------------
FLUSH_CALLS = 64  # measured: larger batches gain nothing, smaller ones cost a system call each
FLUSH_BYTES = 64 << 10  # a socket buffer takes it in one write
FLUSH_DELAY_S = 0.001  # nothing submitted waits longer than this for company
LINE_IDLE_S = 0.0005  # a line that was silent for this long is flushed at once
SPIN_S = 0.0001  # a waiting process looks for its answer so long before it sleeps
SPIN_LONG_S = 0.0004  # and so long while its waits are shorter: three may take turns on two cores
SLEEP_AT_MOST_S = 0.5  # a signal that came just before a sleep is seen after it, not in it
LONGEST_SLEEP_S = 8.0  # each sleep of a wait is twice as long as the one before, up to this
COURIER_TICK_S = 0.1  # how often a process that is not in the API reads what is at hand (logs, EOF)

# -- functions -----------------------------------------------------------------------------------
FUNCTION_WARN_BYTES = 10 << 20  # Ray's bounds: a closure this large is nearly always a mistake
RETURNS_MAX = 100_000  # of one task: each is a row of the node's object table, made in one turn
MAX_FUNCTION_BYTES = 60 << 20  # it travels in one frame; large data belongs in put()

# -- scheduling ----------------------------------------------------------------------------------
RESOURCE_UNITS = 10_000  # fixed point: 0.0001 of a resource is the smallest share
RESOURCE_LIMIT = 1e14  # the largest amount of a resource that a user may give
PIPELINE_BUDGET_S = 0.004  # so much work, by the template's average, is sent ahead to a worker
PIPELINE_MAX_TASKS = 64  # bounds what a worker may have to hand back
PIPELINE_PAIR_S = 0.020  # up to this average, one task waits at the worker while another runs
RESOURCE_PATIENCE_S = 1.0  # a demand unmet for this long is owed: later ones may not take its share
KEPT_FREE_S = 2.0  # so long first, then for as long no more, as what it lacks may never come;
KEPT_FREE_MAX_S = 64.0  # then each time twice as long, up to this: tasks of a minute do end
HAND_BACK_AFTER_S = 0.025  # a task may wait 50 ms behind a running one: half for noticing
AVERAGE_WEIGHT = 0.2  # exponential average of run times: about the last ten runs count

# -- workers -------------------------------------------------------------------------------------
IDLE_WORKER_S = 1.0  # idle workers beyond the CPU count end after this (Ray's value)
FIND_AMONG_TASKS = 1_000  # how far a queue is searched for a task that frees memory
WORKER_START_ATTEMPTS = 5  # in a row and in vain; then the tasks that wait for one are told
MAX_WORKER_STARTS = 64  # forks under way at once: a burst of demand may not become a fork bomb
EXIT_GRACE_S = 1.0  # a worker asked to end has this long for its atexit handlers
ACTOR_SHUTDOWN_GRACE_S = 30.0  # __ray_shutdown__ may take this long (Ray's limit)
STDERR_TAIL_LINES = 12  # of a dead worker, quoted in the error

# -- actors --------------------------------------------------------------------------------------
ACTOR_WINDOW_CALLS = 1_000  # delivered and unanswered per actor: the rest waits in the node
ASYNC_ACTOR_CONCURRENCY = 1_000  # max_concurrency of an async actor (Ray's default)

# -- lanes between processes (decision 0012) -----------------------------------------------------
LANES = True  # whether nodes offer any; without them all calls go by the switch
LANES_FOLDER = "lanes"  # in the session folder: where workers accept lanes
LANE_VALUE_BYTES = 16 << 10  # arguments, one value, a result: larger ones gain nothing by a lane
LANE_WINDOW_CALLS = 1_000  # unanswered on one lane: with the above it bounds what either end keeps
LANE_BUDGET_S = 0.05  # of work at one lent worker (as SPILL_WAIT_S): what waits longer may move
LEASE_PIPELINE_S = 0.001  # none waits behind a longer task: another worker may idle meanwhile
LANE_AFTER_CALLS = 2  # answered, of one caller to one actor: who calls once needs no lane
LANES_PER_PROCESS = 64  # at each end: bounds descriptors, and what a reader has to look at
LEASE_IDLE_S = 0.02  # a lent worker without a task for so long goes back
ACTOR_LANE_IDLE_S = 5.0  # an actor's lane without a call for so long ends: it holds no resource
LEASE_AFTER_TASKS = 8  # of one class, by a caller that had no lease of it: then it asks for one
LEASE_ASK_AGAIN_S = 0.02  # an ask is remembered for so long, and repeated after it
LEASE_MAX_TASK_S = 0.005  # longer tasks, by the average, gain nothing: the node takes 0.3 ms
LEASE_PATIENCE_S = 0.02  # so long a caller's own tasks wait in the node before its lease ends
LEASE_AGAIN_S = 0.05  # after something had to wait for a lent worker, none is lent for so long
LEASE_SLOW_S = 1.0  # a class whose tasks on a lane were too long gets no lease for so long
LANE_LOAD_TASKS = 32  # unanswered on each lane of a class: one more worker would help
LANE_CHUNK_CALLS = 16  # in a burst, so many calls go to one lane before another is looked for
LANE_TICK_S = 0.02  # how often a process that waits for nothing reads its lanes while they move
BLOCKED_AFTER_S = 0.002  # who waits for a lane call longer lends its CPU: two messages cost less
LANE_FUNCTION_BYTES = 64 << 10  # a larger function would fill the socket of a lane
LANE_NOTES = 64  # rows of calls that have run, in one message: the node wakes once for them
LANE_LOOK_S = 0.002  # a busy callee looks so often at its other lines
LANE_LOST_GRACE_S = 1.0  # a worker whose lane broke has so long to be known as dead: then it is

# -- objects -------------------------------------------------------------------------------------
ARENA_SHARE = 0.3  # of the machine's memory (Ray's default)
ARENA_MAX_BYTES = 200 << 30  # Ray's cap
ARENA_MIN_BYTES = 75 << 20  # Ray's floor; smaller stores cannot hold one batch of anything
ERROR_TEXT_MAX_CHARS = 60_000  # of a remote traceback: errors travel inside messages, and are read
ERROR_CAUSE_MAX_BYTES = 1 << 20  # a user's exception that pickles to more arrives shortened
MAKE_WAY_AFTER_S = 0.2  # so long without that, and the inputs of tasks that wait make way for one
FULL_STORE_GRACE_S = 2.0  # a creator waits so long without any space being freed (Ray's value)
TRIM_AFTER_S = 10.0  # pages of freed extents go back to the machine after this much quiet

# -- many nodes ----------------------------------------------------------------------------------
SPILL_WAIT_S = 0.05  # a task that would wait longer here is offered to the global scheduler
SPILL_LOOK_S = 0.01  # how often queues are looked at for that: soon after a burst's first tasks end
SPILL_RETRY_MAX_S = 0.5  # an offer in vain is repeated, ever later but at least this often
OFFER_TASKS_MAX = 10_000  # of one class in one offer: bounds the GCS's work in one turn
LOCALITY_BYTES = 1 << 20  # inputs elsewhere of at least so much: the global scheduler decides
ACTOR_UNKNOWN_S = 10.0  # a call to an actor that nobody has heard of fails after this
AVOID_S = 5.0  # a node that could not be reached gets no tasks from here for so long
PENDING_ROWS = 20  # kinds of waiting work that a node lists in a heartbeat, for people
DEAD_ACTORS_KEPT = 1_000  # by a node: of named ones, why they died
DEAD_NODES_KEPT = 1_000  # by a node: their lines are refused
SILENT_NODE_S = 60.0  # one that lives, but cannot be reached, is waited for so long
REACH_AGAIN_S = 2.0  # between two tries to fetch a value from who keeps it and cannot be reached
HOME_FETCHES_MAX = 3  # how often an object's home is asked to be the source of one pull
ENDED_JOBS_KEPT = 1_000  # by a node: long enough for all that is under way to arrive
UNKNOWN_TASK_S = 0.1  # a task of unknown run time: it is offered after SPILL_WAIT_S, not over yet
UNKNOWN_BYTES_PER_S = 100 << 20  # to a node that has received nothing yet: a network of 1 Gbit/s
MOVE_GAIN_S = 0.02  # a task moves only to be earlier by this and
MOVE_GAIN_SHARE = 0.1  # by this share of its wait: both figures are up to a heartbeat old
PLACED_UNSEEN_S = 0.5  # a task placed and not heard of by then does not come, or got lost

# -- moving objects between nodes ----------------------------------------------------------------
UPLOADS_PER_OBJECT = 2  # by one node at a time: who is told "busy" soon finds another copy
BUSY_RETRY_S = 0.01  # until who was told "busy" asks again; then each time twice as long,
BUSY_RETRY_MAX_S = 0.1  # up to this: a copy made elsewhere is found soon, at ten requests a second
LOCATE_AGAIN_S = 1.0  # an answer that got lost with the GCS is asked for again
PULLS_AT_ONCE = 16  # objects coming to one node: enough to hide the latency of small ones
PULL_BYTES_AT_ONCE = 1 << 30  # of these: the first to run is not kept waiting by the last
SWITCH_INTERVAL_S = 0.0005  # for how long the loop's thread keeps a transfer thread from the GIL
TRANSFER_STREAMS = 2  # connections for one object: a cloud bounds each of them to 5 or 10 Gbit/s
TRANSFER_CHUNK_BYTES = 64 << 20  # of an object: less is not worth a second connection
TRANSFER_PIECE_BYTES = 1 << 20  # in one system call: as much as a pipe of a plain user may hold
TRANSFER_THREADS = 16  # that receive, of a node: one for each pull
TRANSFER_SERVED_MAX = 256  # data connections to one node; those beyond are told "busy"
TRANSFER_SILENCE_S = 5.0  # without a byte: the other side is given up (as a node in all)
TRANSFER_IDLE_S = 30.0  # a data connection without use is closed, its thread ends
DATA_MESSAGE_MAX_BYTES = 4 << 10  # on a data connection: some ids and numbers

LINK_GIVE_UP_S = 5.0  # a line to another node that cannot be connected for so long (as silence)
LINK_KEPT_S = 15.0  # what its other side keeps for it: longer, as it cannot know when that gave up
DRIVER_KEPT_S = 30.0  # what a node keeps for a driver on another machine that is cut off
DRIVER_PING_S = 2.0  # a node says so often to such a driver that it is there, and it to the node
DRIVER_SILENCE_S = 10.0  # a driver that hears nothing for five of those connects anew
DRIVER_MUTE = 10  # one that says nothing for so many times what it is kept for is taken for cut off
DRIVER_LINGER_S = 1.0  # its last words have so long to be read; within STOP_TIMEOUT_S
DRIVER_CHUNK_BYTES = 1 << 20  # of a large value in one message: a millisecond of either side's time
DRIVER_UNSEEN_BYTES = 8 << 20  # sent and not seen yet: 160 MB/s over a line of 50 ms

# -- connections between machines ----------------------------------------------------------------
UNAUTHENTICATED_MAX = 128  # strangers at a time, each for HELLO_TIMEOUT_S: bounds what they cost
ACCEPTS_PER_TURN = 16  # of the event loop: a flood of connections may not stop the node's own work
ACCEPT_AGAIN_S = 0.5  # after the system had no descriptor left for a connection: others must end
HELLO_MAX_BYTES = 4 << 10  # a record of the handshake: some ids, or a sentence of refusal
HELLO_REASON_MAX_CHARS = 1_000  # of that sentence: four bytes each at most, so it always fits
DIAL_TIMEOUT_S = 10.0  # twice HELLO_TIMEOUT_S, so that a door full of strangers is outlasted
DIAL_AGAIN_S = 0.05  # to a door that was full: the next attempt, then each twice as late,
DIAL_AGAIN_MAX_S = 0.5  # up to this
REFUSALS_LOGGED = 20  # log lines about refused connections within
REFUSALS_LOGGED_WITHIN_S = 10.0  # this time; the rest is only counted: strangers fill no disk
KEEPALIVE_IDLE_S = 5  # so the kernel notices a machine gone without a word: a line silent
KEEPALIVE_INTERVAL_S = 5  # for so long is probed, this often,
KEEPALIVE_PROBES = 3  # and given up when so many probes were not answered
UNACKNOWLEDGED_S = 20.0  # the same for bytes sent: TCP itself would try for a quarter of an hour
SEEN_AFTER_MESSAGES = 1_000  # received on a lasting line, before its sender is told that they are,
SEEN_AFTER_BYTES = 256 << 10  # or so many bytes: what a sender keeps per quiet line stays small
KEPT_MAX_BYTES = 256 << 20  # a lasting line without a connection keeps no more: it is given up
TOKEN_MIN_CHARS = 16  # of the cluster token: a shorter one could be guessed from one handshake
TOKEN_MAX_CHARS = 4_096  # a longer file is not a token but a mistake

# -- placement groups ----------------------------------------------------------------------------
BUNDLES_MAX = 10_000  # of one group: bounds the choice of their nodes, one turn of the GCS
GROUP_RETRY_S = 0.1  # a group for which there is no room is tried again: one heartbeat later,
GROUP_RETRY_MAX_S = 1.0  # then ever later, up to this (Ray's values); at once if there is more
GROUPS_TRIED_COST = 20_000  # nodes looked at and bundles placed in one tick: some 20 ms
RESERVE_TIMEOUT_S = 2.0  # a node that lives answers at once; others are tried before it is dead

# -- GCS -----------------------------------------------------------------------------------------
HEARTBEAT_S = 0.1  # how often a node tells the GCS its load: tasks are placed by figures this old
QUIET_AFTER_S = 10.0  # a local session in which nothing has happened for so long
QUIET_TICK_S = 0.5  # looks so often at its logs and clocks, until something happens
STAY_HEARTBEATS = 2  # a task that stays where it was offered is in the second, if not in the next
PULSE_AFTER_S = 0.5  # a loop too busy for its heartbeat for so long: a thread says that it lives,
STUCK_S = 60.0  # until here: then it will not come back
HEAD_BEAT_S = 2.0  # how often the GCS says to each node that it is there
HEAD_SILENT_S = STUCK_S + 10.0  # a node that hears nothing of it for so long has lost its head
NODE_SILENCE_S = 4.0  # a node not heard of for this long is given up: with the GCS's tick, in 5 s
GCS_UNREAD_MAX_BYTES = 256 << 20  # four of the largest answers; a node that reads so slowly is lost
GCS_CLOSE_WITHIN_S = 5.0  # a refused node has so long to read why
EVENT_BATCH_S = 0.25  # task events travel to the GCS this often, as one opaque batch
TASKS_REPORTED = 1_000  # of a node in the task table: more would be a load and no help
TASKS_LOOKED_AT = 5_000  # for that, four times a second: under a millisecond
EVENT_BACKLOG = 50_000  # events kept by a node while the GCS is slow; beyond, drops are counted
EVENT_LOG_TASKS = 100_000  # task events kept by the GCS (Ray's bound); older ones are dropped

# -- processes -----------------------------------------------------------------------------------
START_TIMEOUT_S = 30.0  # GCS and node are up in 0.2 s; a machine under load may need longer
HEAD_LOST_S = 60.0  # a node that cannot reach its head for this long ends (Ray's value)
STOP_TIMEOUT_S = 1.5  # then SIGKILL: nothing may be left after 2 s
SESSIONS_KEPT = 20  # log folders of ended sessions that stay for reading
LOG_FLUSH_MAX_S = 10.0  # at shutdown, prints that are still coming are waited for this long
LOG_LINE_MAX_BYTES = 64 << 10  # longer lines are cut in pieces
LOG_FOLD_S = 5.0  # the same line from several workers within this window is printed once (Ray)
