"""Every bound and time-out, with its unit and its reason. Nothing here is read from a file.

A name ends in its unit. Change a value here and nowhere else; a bound without a reason is a bug.
"""

from __future__ import annotations

import sys

# -- wire ------------------------------------------------------------------------------------
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"  # pickles do not cross minor versions
PROTOCOL_VERSION = 1  # compared at hello; a peer with another one is refused in a sentence
MAX_FRAME_BYTES = 64 << 20  # a function of up to MAX_FUNCTION_BYTES is chunked below this
HELLO_TIMEOUT_S = 5.0  # a connection that says nothing is closed after this
INLINE_MAX_BYTES = 100 << 10  # larger values go through the arena (Ray's value)
READ_TURN_BYTES = 1 << 20  # from one connection in one turn of the switch, so that it stays fair
UNREAD_MAX_BYTES = 16 << 20  # past this, the node stops reading a client that leaves answers unread
WRITE_BACKLOG_BYTES = 1 << 20  # past this, pushes to a client that does not read are held back

# -- a client's outbox --------------------------------------------------------------------------
FLUSH_CALLS = 64  # measured: larger batches gain nothing, smaller ones cost a system call each
FLUSH_BYTES = 64 << 10  # a socket buffer takes it in one write
FLUSH_DELAY_S = 0.001  # no submitted call waits longer than this for company
LINE_IDLE_S = 0.0005  # a line that has been silent for this long is flushed at once
SPIN_S = 0.0001  # a waiting process looks for its answer for this long before it sleeps
SPIN_LONG_S = 0.0004  # the same while its waits are shorter: three processes may share two cores
SLEEP_AT_MOST_S = 0.5  # a signal that came just before a sleep is seen after it, not in it
LONGEST_SLEEP_S = 8.0  # each sleep of a wait is twice as long as the one before, up to this
COURIER_TICK_S = 0.1  # how often a process outside of the API reads what has come (logs, EOF)

# -- functions -----------------------------------------------------------------------------------
FUNCTION_WARN_BYTES = 10 << 20  # Ray's bounds: a closure this large is nearly always a mistake
RETURNS_MAX = 100_000  # of one task: each is a row of the node's object table, made in one turn
MAX_FUNCTION_BYTES = 60 << 20  # it travels in one frame; large data belongs in put()

# -- scheduling ----------------------------------------------------------------------------------
RESOURCE_UNITS = 10_000  # fixed point: 0.0001 of a resource is the smallest share
RESOURCE_LIMIT = 1e14  # the largest amount of a resource that a user may give
PIPELINE_BUDGET_S = 0.004  # work sent ahead to a worker, by the template's average run time
PIPELINE_MAX_TASKS = 64  # bounds what a worker may have to hand back
PIPELINE_PAIR_S = 0.020  # up to this average, one task waits at the worker while another runs
RESOURCE_PATIENCE_S = 1.0  # a demand unmet for this long is owed: later ones may not take its share
KEPT_FREE_S = 2.0  # length of the first turn in which a starved demand is owed what becomes free
KEPT_FREE_MAX_S = 64.0  # longest such turn (each is twice the last): a task of a minute ends within
HAND_BACK_AFTER_S = 0.025  # a task may wait 50 ms behind a running one: half for noticing
AVERAGE_WEIGHT = 0.2  # exponential average of run times: about the last ten runs count

# -- workers -------------------------------------------------------------------------------------
IDLE_WORKER_S = 1.0  # idle workers beyond the CPU count end after this (Ray's value)
FIND_AMONG_TASKS = 1_000  # how far a queue is searched for a task that frees memory
WORKER_START_ATTEMPTS = 5  # failed starts in a row after which the waiting tasks fail
MAX_WORKER_STARTS = 64  # forks under way at once: a burst of demand must not become a fork bomb
EXIT_GRACE_S = 1.0  # a worker asked to end has this long for its atexit handlers
ACTOR_SHUTDOWN_GRACE_S = 30.0  # __ray_shutdown__ may take this long (Ray's limit)
STDERR_TAIL_LINES = 12  # of a dead worker's stderr, quoted in the error

# -- actors --------------------------------------------------------------------------------------
ACTOR_WINDOW_CALLS = 1_000  # delivered and unanswered calls of an actor: the rest waits in the node
ASYNC_ACTOR_CONCURRENCY = 1_000  # max_concurrency of an async actor (Ray's default)

# -- lanes between processes (decision 0012) -----------------------------------------------------
LANES = True  # whether nodes offer any; without them all calls go by the switch
LANES_FOLDER = "lanes"  # in the session folder: where workers accept lanes
LANE_VALUE_BYTES = 16 << 10  # arguments, one value, a result: larger ones gain nothing by a lane
LANE_WINDOW_CALLS = 1_000  # unanswered on one lane; LANE_VALUE_BYTES and this bound each end
LANE_BUDGET_S = 0.05  # work at one lent worker (as REBALANCE_WAIT_S): beyond it, tasks may move
LEASE_PIPELINE_S = 0.001  # tasks longer than this go one by one: another worker may be idle
LANE_AFTER_CALLS = 2  # answered calls of a caller to an actor: a single call needs no lane
LANES_PER_PROCESS = 64  # at each end: bounds descriptors, and the sockets that a reader looks at
LEASE_IDLE_S = 0.02  # a lent worker without a task goes back after this
ACTOR_LANE_IDLE_S = 5.0  # an actor's lane ends after this long without a call; it holds no resource
LEASE_AFTER_TASKS = 8  # a caller without a lease asks for one after this many tasks of a class
LEASE_ASK_AGAIN_S = 0.02  # the node remembers an ask for this long; then the caller repeats it
LEASE_MAX_TASK_S = 0.005  # longer tasks, by the average, gain nothing: the node takes 0.3 ms
LEASE_PATIENCE_S = 0.02  # a caller's lease ends when its tasks in the node have waited this long
LEASE_LONG_PATIENCE_S = 0.25  # or this long, while as many others serve them as are lent
LEASE_AGAIN_S = 0.05  # no worker is lent for this long after a demand had to take one back
LEASE_SLOW_S = 1.0  # a class whose tasks were too long for a lane gets no lease for this long
LANE_LOAD_TASKS = 32  # unanswered on each lane of a class: one more worker would help
LANE_CHUNK_CALLS = 16  # calls of a burst that go to one lane before another is looked for
LANE_TICK_S = 0.02  # how often a process that waits for nothing reads lanes that are in use
BLOCKED_AFTER_S = 0.002  # a wait for a lane call lends its CPU after this: two messages cost less
LANE_FUNCTION_BYTES = 64 << 10  # a larger function would fill the socket of a lane
LANE_NOTES = 64  # calls reported to the node in one message: it wakes once for all of them
LANE_LOOK_S = 0.002  # how often a busy callee looks at its other lines
LANE_LOST_GRACE_S = 1.0  # a worker whose lane broke is killed unless its death is known by then

# -- objects -------------------------------------------------------------------------------------
ARENA_SHARE = 0.3  # of the machine's memory (Ray's default)
ARENA_MAX_BYTES = 200 << 30  # Ray's cap
ARENA_MIN_BYTES = 75 << 20  # Ray's floor; smaller stores cannot hold one batch of anything
ERROR_TEXT_MAX_CHARS = 60_000  # of a remote traceback: errors travel inside messages, and are read
ERROR_CAUSE_MAX_BYTES = 1 << 20  # a user's exception that pickles to more arrives shortened
MAKE_WAY_AFTER_S = 0.2  # without freed space, before one waiting task may evict others' inputs
FULL_STORE_GRACE_S = 2.0  # a creator waits this long for any space to be freed (Ray's value)
TRIM_AFTER_S = 10.0  # pages of freed extents go back to the machine after this much quiet

# -- many nodes ----------------------------------------------------------------------------------
REBALANCE_WAIT_S = 0.05  # tasks that would wait longer here are offered to the global scheduler
REBALANCE_LOOK_S = 0.01  # how often queues are checked for these: soon after a burst's first ends
REBALANCE_RETRY_MAX_S = 0.5  # longest pause between two offers of a queue; pauses double up to this
OFFER_TASKS_MAX = 10_000  # of one class in one offer: bounds the GCS's work in one turn
LOCALITY_BYTES = 1 << 20  # the global scheduler places a task whose inputs elsewhere are this large
ACTOR_UNKNOWN_S = 10.0  # a call to an actor that no node knows fails after this
AVOID_S = 5.0  # a node that could not be reached gets no tasks from here for this long
PENDING_ROWS = 20  # kinds of waiting work that a node lists in a heartbeat, for people
DEAD_ACTORS_KEPT = 1_000  # named ones, by a node, with the reason of their death
DEAD_NODES_KEPT = 1_000  # by a node: it refuses their lines
SILENT_NODE_S = 60.0  # how long a node waits for another one that lives and cannot be reached
REACH_AGAIN_S = 2.0  # between two tries to fetch a value whose keeper cannot be reached
HOME_FETCHES_MAX = 3  # how often an object's home is asked to be the source of one pull
ENDED_JOBS_KEPT = 1_000  # by a node: long enough for every message under way to arrive
UNKNOWN_TASK_S = 0.1  # assumed run time of a task that has never run: above REBALANCE_WAIT_S
UNKNOWN_BYTES_PER_S = 100 << 20  # assumed for a node that has received nothing yet: 1 Gbit/s
MOVE_GAIN_S = 0.02  # a task moves only if that saves this much: loads are up to a heartbeat old
MOVE_GAIN_SHARE = 0.1  # a move must also save this share of the task's wait, for the same reason
PLACED_UNSEEN_S = 0.5  # a placed task that its node has not reported by then counts as lost

# -- moving objects between nodes ----------------------------------------------------------------
UPLOADS_PER_OBJECT = 2  # by one node at a time: a node told "busy" soon finds another copy
BUSY_RETRY_S = 0.01  # first pause before a node told "busy" asks again; later pauses double
BUSY_RETRY_MAX_S = 0.1  # longest pause after "busy": ten requests a second find a new copy soon
LOCATE_AGAIN_S = 1.0  # a question is repeated after this: its answer may be lost with the GCS
PULLS_AT_ONCE = 16  # objects coming to one node: enough to hide the latency of small ones
PULL_BYTES_AT_ONCE = 1 << 30  # of these pulls: the first task to run does not wait for the last
SWITCH_INTERVAL_S = 0.0005  # how long the loop's thread keeps a transfer thread from the GIL
TRANSFER_STREAMS = 2  # connections for one object: a cloud bounds each of them to 5 or 10 Gbit/s
TRANSFER_CHUNK_BYTES = 64 << 20  # of an object: a smaller part is not worth a second connection
TRANSFER_PIECE_BYTES = 1 << 20  # in one system call: as much as a pipe of a plain user may hold
TRANSFER_THREADS = 16  # receiving threads of a node: one for each pull
TRANSFER_SERVED_MAX = 256  # data connections to one node; further ones are told "busy"
TRANSFER_SILENCE_S = 5.0  # a transfer without a byte for this long is given up (as a node is)
TRANSFER_IDLE_S = 30.0  # an unused data connection is closed after this, and its thread ends
DATA_MESSAGE_MAX_BYTES = 4 << 10  # on a data connection: some ids and numbers

LINK_GIVE_UP_S = 5.0  # a line that cannot be connected for this long is given up (as for silence)
LINK_KEPT_S = 15.0  # the other side keeps a line longer: it cannot know when the dialler gave up
DRIVER_KEPT_S = 30.0  # how long a node keeps the line of a remote driver that is cut off
DRIVER_PING_S = 2.0  # how often a node and a remote driver send each other a sign of life
DRIVER_SILENCE_S = 10.0  # a remote driver that hears nothing for five DRIVER_PING_S connects anew
DRIVER_MUTE = 10  # a driver silent for this many times DRIVER_KEPT_S is taken for cut off
DRIVER_LINGER_S = 1.0  # for a driver's last words to be read; within STOP_TIMEOUT_S
DRIVER_CHUNK_BYTES = 1 << 20  # of a large value in one message: a millisecond of either side's time
DRIVER_UNSEEN_BYTES = 8 << 20  # sent and not yet acknowledged: 160 MB/s over a line of 50 ms

# -- connections between machines ----------------------------------------------------------------
UNAUTHENTICATED_MAX = 128  # strangers at a time, each for HELLO_TIMEOUT_S: bounds their cost
ACCEPTS_PER_TURN = 16  # of the event loop: a flood of connections must not stop the node's own work
ACCEPT_AGAIN_S = 0.5  # pause after the system ran out of descriptors: connections must end first
HELLO_MAX_BYTES = 4 << 10  # a record of the handshake: some ids, or a sentence of refusal
HELLO_REASON_MAX_CHARS = 1_000  # of the refusal in a hello: at most four bytes each, so it fits
DIAL_TIMEOUT_S = 10.0  # twice HELLO_TIMEOUT_S: the dialler outlasts a door full of strangers
DIAL_AGAIN_S = 0.05  # first pause after a refusal by a full door; later pauses double
DIAL_AGAIN_MAX_S = 0.5  # longest pause before a full door: a free place is found soon
REFUSALS_LOGGED = 20  # refused connections logged in one window; later ones are only counted
REFUSALS_LOGGED_WITHIN_S = 10.0  # the window of REFUSALS_LOGGED: strangers must not fill the disk
KEEPALIVE_IDLE_S = 5  # the kernel probes a line silent for this long: its machine may be gone
KEEPALIVE_INTERVAL_S = 5  # between two probes of a silent line
KEEPALIVE_PROBES = 3  # a line with this many unanswered probes is given up
UNACKNOWLEDGED_S = 20.0  # the same for bytes sent: TCP itself would try for a quarter of an hour
SEEN_AFTER_MESSAGES = 1_000  # a lasting line acknowledges after this many: its sender keeps little
SEEN_AFTER_BYTES = 256 << 10  # a lasting line acknowledges after so many bytes, for the same reason
KEPT_MAX_BYTES = 256 << 20  # a lasting line without a connection is given up when it keeps more
TOKEN_MIN_CHARS = 16  # of the cluster token: a shorter one could be guessed from one handshake
TOKEN_MAX_CHARS = 4_096  # a longer file is not a token but a mistake

# -- placement groups ----------------------------------------------------------------------------
BUNDLES_MAX = 10_000  # of one group: bounds the choice of their nodes, one turn of the GCS
GROUP_RETRY_S = 0.1  # first pause of a group that found no room, one heartbeat; later pauses double
GROUP_RETRY_MAX_S = 1.0  # longest such pause (Ray's values); new room ends a pause at once
GROUPS_TRIED_COST = 20_000  # nodes looked at and bundles placed in one tick: some 20 ms
RESERVE_TIMEOUT_S = 2.0  # a live node answers at once; others are tried before it counts as dead

# -- GCS -----------------------------------------------------------------------------------------
HEARTBEAT_S = 0.1  # how often a node tells the GCS its load: tasks are placed by figures this old
QUIET_AFTER_S = 5.0  # a local session without any event for this long is quiet
QUIET_TICK_S = 0.5  # how often a quiet session looks at its logs and clocks, until the next event
STAY_HEARTBEATS = 2  # a task that stays at its offerer is in one of this many next heartbeats
PULSE_AFTER_S = 0.5  # a thread sends a sign of life for a loop that sent no heartbeat for so long
STUCK_S = 60.0  # a loop without a heartbeat for this long will not return: its thread falls silent
HEAD_BEAT_S = 2.0  # how often the GCS sends each node a sign of life
HEAD_SILENT_S = STUCK_S + 10.0  # a node that hears no GCS for this long has lost its head
NODE_SILENCE_S = 4.0  # a node not heard of for this long is given up: with the GCS's tick, in 5 s
GCS_UNREAD_MAX_BYTES = 256 << 20  # four of the largest answers; a node that reads so slowly is lost
GCS_CLOSE_WITHIN_S = 5.0  # for a refused node to read the reason
EVENT_BATCH_S = 0.25  # how often task events travel to the GCS, as one opaque batch
TASKS_REPORTED = 1_000  # of a node in the task table: more would be a load and no help
TASKS_LOOKED_AT = 5_000  # for that report, four times a second: under a millisecond
EVENT_BACKLOG = 50_000  # events kept by a node while the GCS is slow; beyond, drops are counted
EVENT_SHARE_MIN = 2_000  # of a batch, however many nodes: 8,000 events a second of each
EVENT_LOG_TASKS = 100_000  # task events kept by the GCS (Ray's bound); older ones are dropped

# -- processes -----------------------------------------------------------------------------------
START_TIMEOUT_S = 30.0  # GCS and node are up in 0.2 s; a machine under load may need longer
HEAD_LOST_S = 60.0  # a node that cannot reach its head for this long ends (Ray's value)
STOP_TIMEOUT_S = 1.5  # then SIGKILL: nothing may be left after 2 s
SESSIONS_KEPT = 20  # log folders of ended sessions that stay for reading
LOG_FLUSH_MAX_S = 10.0  # shutdown waits this long for prints that are still coming
LOG_LINE_MAX_BYTES = 64 << 10  # longer lines are cut in pieces
LOG_FOLD_S = 5.0  # the same line from several workers within this window is printed once (Ray)
