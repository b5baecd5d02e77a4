"""Every question that the GCS answers (`messages.Ask`), one struct each: what its body holds.

The method is the name in `BODIES`, the fields of its struct are the keys of the body, the docstring
tells the answer's body. A body that does not fit is answered by an error; keys that are not known
are passed over, so a newer asker can talk to an older GCS. Ids are bytes where a program needs them
and hex in rows that people read.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from skate.gcs.event_log import ROWS_MAX
from skate.ids import ACTOR_ID_BYTES, OBJECT_ID_BYTES
from skate.scheduler.group_names import GROUP_ID_BYTES
from skate.spec import LabelRule

ActorID = Annotated[bytes, msgspec.Meta(min_length=ACTOR_ID_BYTES, max_length=ACTOR_ID_BYTES)]
ObjectID = Annotated[bytes, msgspec.Meta(min_length=OBJECT_ID_BYTES, max_length=OBJECT_ID_BYTES)]
GroupID = Annotated[bytes, msgspec.Meta(min_length=GROUP_ID_BYTES, max_length=GROUP_ID_BYTES)]
AnyID = Annotated[bytes, msgspec.Meta(min_length=1)]
Limit = Annotated[int, msgspec.Meta(ge=0, le=ROWS_MAX)]


class Nodes(msgspec.Struct):
    """A list of dicts in the keys of Ray's `nodes()`, the dead ones too."""


class ListJobs(msgspec.Struct):
    """A list of dicts: all running jobs, and the newest ended ones."""


class NextJobId(msgspec.Struct):
    """A JobID that was never given before: 4 bytes."""


class ReserveActorName(msgspec.Struct):
    """{"actor_id": id of the other actor that has the name, or None: it is yours now}.

    Class name and spec are optional and save a `put_actor_spec`.
    """

    name: str
    namespace: str
    actor_id: ActorID
    class_name: str = ""
    spec: bytes = b""


class ReleaseActorName(msgspec.Struct):
    """Whether the name was taken (by `actor_id`, if one is given); now it is free."""

    name: str
    namespace: str
    actor_id: ActorID | None = None


class PutActorSpec(msgspec.Struct):
    """None. Keeps the opaque bytes that `get_actor` gives to other nodes."""

    actor_id: ActorID
    spec: bytes


class GetActor(msgspec.Struct):
    """The row of a living actor by name (or by id), or None; ids and "spec" as bytes.

    "state" is DEPENDENCIES_UNREADY for a name that is reserved and no more.
    """

    name: str = ""
    namespace: str = ""
    actor_id: ActorID | None = None


class ListActors(msgspec.Struct):
    """A list of dicts: all living actors, and the newest dead ones."""

    limit: Limit = ROWS_MAX


class NamedActors(msgspec.Struct):
    """A list of [namespace, name]: those that living actors bear, in one namespace or in all."""

    namespace: str | None = None


class Tasks(msgspec.Struct):
    """A list of dicts: the tasks under way that live longer than an event batch."""

    limit: Limit = ROWS_MAX


class ObjectRows(msgspec.Struct):
    """A list of dicts: the objects that are sealed anywhere, the newest `limit` ones."""

    limit: Limit = ROWS_MAX


class Locate(msgspec.Struct):
    """{"size": bytes, "nodes": [node ids]}; answered once the object is somewhere.

    Without `wait` at once, and None if it is nowhere.
    """

    object_id: ObjectID
    wait: bool = True


class EventRows(msgspec.Struct):
    """A list of event rows, the newest `limit` ones after the moment `since` (wall seconds)."""

    since: float = 0.0
    limit: Limit = ROWS_MAX


class Story(msgspec.Struct):
    """A list of the event rows that concern this id, of whatever kind."""

    id: AnyID
    limit: Limit = ROWS_MAX


class Timeline(msgspec.Struct):
    """The event log as a Chrome trace: a list of dicts."""


class Functions(msgspec.Struct):
    """The bytes of the pickled function, or None."""

    id: bytes


class KvPut(msgspec.Struct):
    """Whether the key is new."""

    key: bytes
    value: bytes
    namespace: str = ""
    overwrite: bool = True


class KvGet(msgspec.Struct):
    """The value, or None."""

    key: bytes
    namespace: str = ""


class KvDel(msgspec.Struct):
    """How many keys are gone; with `by_prefix` all that begin with `key`."""

    key: bytes
    namespace: str = ""
    by_prefix: bool = False


class KvList(msgspec.Struct):
    """The keys that begin with `prefix`, sorted."""

    prefix: bytes = b""
    namespace: str = ""


class KvExists(msgspec.Struct):
    """Whether there is such a key."""

    key: bytes
    namespace: str = ""


class CreatePlacementGroup(msgspec.Struct):
    """None. The group is there from now on, and created once its bundles are reserved.

    `bundles` are resources in fixed-point units; `bundle_rules` none, or a list for each bundle.
    """

    group_id: GroupID
    bundles: list[dict[str, int]]
    strategy: str = "PACK"
    name: str = ""
    namespace: str = ""
    job_id: bytes = b""
    detached: bool = False
    bundle_rules: list[tuple[LabelRule, ...]] = []
    soft_target: bytes = b""


class RemovePlacementGroup(msgspec.Struct):
    """Whether there was such a group; now what it had is being given back."""

    group_id: GroupID


class WaitPlacementGroup(msgspec.Struct):
    """True, once the group is created; an error if it was removed, or never was."""

    group_id: GroupID


class PlacementGroupTable(msgspec.Struct):
    """A list of dicts in the keys of Ray's `placement_group_table`: of all groups (the newest
    removed ones too), or of the one that is asked for, if it is known."""

    group_id: GroupID | None = None


class GetPlacementGroup(msgspec.Struct):
    """The row, as in the table, of the group of this name that is not removed; or None."""

    name: str
    namespace: str = ""


class ClusterResources(msgspec.Struct):
    """A dict of what the living nodes have all together; resources of placement groups left out."""


class AvailableResources(msgspec.Struct):
    """Likewise of what is free, as of their last heartbeats; what is used up is left out."""


class Pending(msgspec.Struct):
    """A list of dicts: what waits on the nodes, and for a node, and why.

    "name", "demand" (amounts), "count", "reason", and the "node_id" where it waits or was offered.
    """


class Summary(msgspec.Struct):
    """A dict of counts for each table, and of events kept and dropped."""


class Watch(msgspec.Struct):
    """What changed in a table since a version.

    Tables are "nodes", "jobs", "actors", "tasks", "objects" and "placement_groups".

    {"version": ask with this next time, "rows": [...], "removed": [ids in hex], "complete": bool};
    if not complete, the rows are the whole table. Version 0 asks for everything.
    """

    table: str
    since: Annotated[int, msgspec.Meta(ge=0)] = 0


BODIES: dict[str, type[msgspec.Struct]] = {
    "nodes": Nodes,
    "list_jobs": ListJobs,
    "next_job_id": NextJobId,
    "reserve_actor_name": ReserveActorName,
    "release_actor_name": ReleaseActorName,
    "put_actor_spec": PutActorSpec,
    "get_actor": GetActor,
    "list_actors": ListActors,
    "named_actors": NamedActors,
    "tasks": Tasks,
    "objects": ObjectRows,
    "locate": Locate,
    "events": EventRows,
    "story": Story,
    "timeline": Timeline,
    "functions": Functions,
    "kv_put": KvPut,
    "kv_get": KvGet,
    "kv_del": KvDel,
    "kv_list": KvList,
    "kv_exists": KvExists,
    "create_placement_group": CreatePlacementGroup,
    "wait_placement_group": WaitPlacementGroup,
    "remove_placement_group": RemovePlacementGroup,
    "placement_group_table": PlacementGroupTable,
    "get_placement_group": GetPlacementGroup,
    "cluster_resources": ClusterResources,
    "available_resources": AvailableResources,
    "pending": Pending,
    "summary": Summary,
    "watch": Watch,
}
