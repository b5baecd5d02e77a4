"""Every message on every wire, one struct each: this package is the protocol's documentation.

    client_wire   between a client (driver or worker) and its node
    lane_wire     about lanes between two processes, and on them
    gcs_wire      between a node and the GCS
    node_wire     between two nodes, and on the data connections of theirs

A frame (net/frame.py) carries a MessagePack array of these. Structs are array-like, so fields are
known by position: new fields go last, with a default. Tags are given in turn and never again, not
even that of a message that is retired; they say nothing of who speaks. Between two nodes, the one
that opened the line speaks as a client of the other, so most of a client's messages are said there
too. User payloads are opaque bytes (objects/serialization.py): no daemon opens one.
"""

from __future__ import annotations

import msgspec

from skate.messages.client_wire import *
from skate.messages.gcs_wire import *
from skate.messages.lane_wire import *
from skate.messages.node_wire import *

ToNode = (
    Hello | RegisterFunction | RegisterTemplate | Submit | CreateActor | CallActor | KillActor
    | Done | HandBack | Blocked | Unblocked | Leaving | Put | CreateExtent | PutChunk | Seal
    | Hold | Release | Pin | Unpin | Revoked | Want | Ask | Seen | Introduce | Forward
    | ForwardActor | ForwardCall | EndActor | ForDriver | Unreachable | FlushLogs | LogsFlushed
    | Part | LaneListening | LaneClosed | LaneOver | LaneWanted | LaneNotes | LaneBegun
    | LaneResult | Promote | Fulfil
)  # fmt: skip
ToClient = (
    Welcome | Refused | WorkerSetup | RegisterFunction | RegisterTemplate | Run | Exit | Extent
    | Ready | Revoke | Chunk | LogLines | Notice | SessionEnds | Answer | Seen | Returned
    | GivenBack | ActorNews | Located | Registered | Part | LaneExpected | LaneOpen | LaneRevoke
    | Publish | CallSkipped
)  # fmt: skip
ToGcs = (
    NodeJoins | Heartbeat | StillAlive | JobChanged | FunctionStored | ActorChanged
    | ObjectsChanged | Events | TasksChanged | Offer | WatchActor | BundlesReserved | Ask
)  # fmt: skip
FromGcs = (
    Refused | Answer | Placed | NodesChanged | JobOver | Forget | ActorChanged | ReserveBundles
    | CommitBundles | ReturnBundles | HeadAlive
)  # fmt: skip

ToSender = Fetch | Arrived
ToFetcher = Lent | Confirmed

ToCallee = LaneHello | RegisterFunction | RegisterTemplate | Call
ToCaller = Outcome | LaneEnds

encode = msgspec.msgpack.Encoder().encode
decode_to_node = msgspec.msgpack.Decoder(list[ToNode]).decode
decode_to_client = msgspec.msgpack.Decoder(list[ToClient]).decode
decode_to_gcs = msgspec.msgpack.Decoder(list[ToGcs]).decode
decode_from_gcs = msgspec.msgpack.Decoder(list[FromGcs]).decode
decode_to_sender = msgspec.msgpack.Decoder(list[ToSender]).decode
decode_to_fetcher = msgspec.msgpack.Decoder(list[ToFetcher]).decode
decode_to_callee = msgspec.msgpack.Decoder(list[ToCallee]).decode
decode_to_caller = msgspec.msgpack.Decoder(list[ToCaller]).decode
