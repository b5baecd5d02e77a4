"""What a process knows of the values behind its refs: one state per object.

Pure; one per client process. The runtime (and the simulator) feeds it what the node says
(``on_ready``, ``on_revoke``) and what the program does (``promise``, ``put``, ``missing``,
``asked``, ``drop``); what the node has to be told goes to ``send``. ``state`` derives the state of
one object, ``check`` asserts that no object is in two.

====================  ==============================================================
from                  to, and why
====================  ==============================================================
UNKNOWN               WANTED: a reader asks. HERE, ELSEWHERE: put() made it.
PROMISED              HERE, ELSEWHERE: the call has ended. FETCHING: a reader waits.
FETCHING              HERE. WANTED: the result is on another node.
ELSEWHERE             WANTED: a reader asks.
WANTED                HERE, TROUBLED: the answer.
HERE                  ELSEWHERE: the node has revoked its place.
TROUBLED              UNKNOWN: the next reader asks again.
UNANSWERED            WANTED_AGAIN: a ref came back, and a reader asks.
WANTED_AGAIN          HERE, TROUBLED: the second answer, or the first without a place.
any                   UNKNOWN (UNANSWERED if an answer may come): its last ref went.
====================  ==============================================================

Representation: one collection per fact, so that ``wait`` over thousands of refs is a set operation
and a submit is one ``set.add``. Threads and interrupts: who reads the connection calls ``on_*``,
``drop`` runs under the connection's lock, and any thread may read and ask. No method takes a lock.
Each step is one atomic operation of a built-in collection, and their order matters: the reader
stores a value before it looks who waits for it, and a waiter registers before it looks for the
value. ``on_*`` may run twice for one message.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from enum import Enum
from typing import Any

from skate import messages as m
from skate.config import LANE_VALUE_BYTES
from skate.messages import ELSEWHERE, TROUBLE
from skate.spec import FORMAT_ERROR

UNANSWERED_KEPT = 1_000
"""Answers that may still come for what was let go; most of those that are not here yet never do."""

_ERROR_TAG = FORMAT_ERROR[0]


class ValueState(Enum):
    """What this process knows of the value of one object."""

    UNKNOWN = "nothing: it has to be asked for"
    PROMISED = "the result of an own call: it comes unasked"
    FETCHING = "promised, and to be asked for if it turns out to be on another node"
    ELSEWHERE = "it exists, on another node"
    WANTED = "asked for"
    HERE = "the value, its error, or its place in the node's arena"
    TROUBLED = "the error of a value that could not be had; the next reader asks again"
    UNANSWERED = "its last ref went when it was promised or WANTED: an answer may still come"
    WANTED_AGAIN = "WANTED, and an answer from before its last ref went may come first"


class ValueTable:
    """See the module's docstring. ``counts`` is the process's reference counts."""

    __slots__ = (
        "_send",
        "counts",
        "doubted",
        "elsewhere",
        "errors_seen",
        "fetching",
        "here",
        "on_watched",
        "promised",
        "reads",
        "troubled",
        "unanswered",
        "waits",
        "wanted",
        "watched",
    )

    def __init__(self, counts: dict[bytes, int], send: Callable[[Any], None]) -> None:
        self.counts = counts
        self._send = send
        self.here: dict[bytes, m.Ready] = {}
        self.promised: set[bytes] = set()
        self.fetching: set[bytes] = set()  # may also hold what came before it was asked for
        self.elsewhere: set[bytes] = set()  # may also hold what is WANTED
        self.wanted: set[bytes] = set()
        self.troubled: set[bytes] = set()  # those of ``here`` that are TROUBLED
        self.doubted: set[bytes] = set()  # those of ``wanted`` that a failed read had asked for
        self.unanswered: dict[bytes, None] = {}
        self.reads: list[Sequence[bytes]] = []  # what get() calls need, until they have it
        self.waits: dict[int, set[bytes]] = {}  # of each wait() call: what was revoked meanwhile
        self.errors_seen = 0  # grows with every error that arrives
        self.watched: Collection[bytes] = ()  # ``on_watched`` is called when one of these is here
        self.on_watched: Callable[[bytes], None] = lambda object_id: None

    # ------------------------------------------------------------------ what the program does

    def promise(self, object_id: bytes) -> None:
        """A call of this process will make it; its first ref exists."""
        self.counts[object_id] = 1
        self.promised.add(object_id)

    def put(self, object_id: bytes, ready: m.Ready | None) -> None:
        """This process made it; its first ref exists. None: it lies where we cannot read it."""
        self.counts[object_id] = 1
        if ready is None:
            self.elsewhere.add(object_id)
        else:
            self.here[object_id] = ready

    def missing(self, object_ids: Sequence[bytes]) -> list[bytes]:
        """Those that a reader has to ask for; what is promised is fetched when it is there."""
        unknown = set(object_ids).difference(self.here)
        promised = unknown & self.promised
        if promised:
            self.fetching |= promised
            promised -= self.elsewhere  # looked at after the entry: a reader does it the other way
        return list(unknown - promised - self.wanted)

    def asked(self, object_ids: Sequence[bytes]) -> None:
        """A ``Want`` of these is about to be sent."""
        for object_id in object_ids:  # refs of an older session: the answer has to count
            self.counts.setdefault(object_id, 1)
        self.wanted.update(object_ids)

    def forget_troubles(self, object_ids: Sequence[bytes]) -> None:
        """What could not be had when it was asked for last can perhaps be had now."""
        if self.troubled:
            for object_id in self.troubled.intersection(object_ids):
                self.troubled.discard(object_id)
                self.here.pop(object_id, None)

    def gave_up(self, object_ids: Sequence[bytes]) -> None:
        """A read of these ended by an error. Were it trouble, the node may be about to say the same
        of the others, for which there is room now: if so, they are asked for once more."""
        if self.troubled.intersection(object_ids):
            self.doubted |= self.wanted.intersection(object_ids)

    def drop(self, object_ids: Sequence[bytes]) -> None:
        """Their last refs are gone. If one comes back, its value has to be asked for."""
        here, promised, wanted = self.here, self.promised, self.wanted
        if self.troubled:
            self.troubled.difference_update(object_ids)
        if self.fetching:
            self.fetching.difference_update(object_ids)
        if self.doubted:
            self.doubted.difference_update(object_ids)
        for object_id in object_ids:
            if here.pop(object_id, None) is None:
                if object_id in promised or object_id in wanted:
                    promised.discard(object_id)
                    wanted.discard(object_id)
                    self.unanswered[object_id] = None
                self.elsewhere.discard(object_id)
        if len(self.unanswered) > UNANSWERED_KEPT:
            young = list(self.unanswered)[UNANSWERED_KEPT // 2 :]
            self.unanswered = dict.fromkeys(young)

    def data_here(self, object_id: bytes) -> bytes:
        """The payload of a small value, or of an error, that is here."""
        return self.here[object_id].data

    def plain(self, object_id: bytes) -> bytes | None:
        """The payload of a value if it is here, small, no error, and without refs inside."""
        ready = self.here.get(object_id)
        if ready is None or ready.size or ready.offset or ready.contains:
            return None
        data = ready.data
        if len(data) > LANE_VALUE_BYTES or data[0] == _ERROR_TAG:
            return None
        return data

    # ------------------------------------------------------------------ what the node says

    def on_ready(self, ready: m.Ready) -> None:
        """A value, its error, its place, or that it is on another node."""
        self.on_all_ready((ready,))

    def on_all_ready(self, readies: Sequence[m.Ready]) -> None:
        """The same of several, in turn."""
        here, counts, promised, wanted = self.here, self.counts, self.promised, self.wanted
        elsewhere, troubled = self.elsewhere, self.troubled
        for ready in readies:
            object_id = ready.object_id
            promised.discard(object_id)
            offset = ready.offset
            if offset == ELSEWHERE:
                self._on_elsewhere(object_id)
                continue
            if object_id in self.unanswered and self._is_old(ready):
                continue
            if wanted:
                wanted.discard(object_id)
            if self.doubted and self._is_outdated(ready):
                continue
            if object_id not in counts:
                continue  # the last ref went while it was under way
            if offset == TROUBLE:
                troubled.add(object_id)
            elif troubled:
                troubled.discard(object_id)
            if elsewhere:
                elsewhere.discard(object_id)
            here[object_id] = ready
            if object_id not in counts:  # it went in the meantime
                here.pop(object_id, None)
                continue
            data = ready.data
            if data and data[0] == _ERROR_TAG:
                self.errors_seen += 1
            if self.watched and object_id in self.watched:
                self.on_watched(object_id)

    def _is_outdated(self, ready: m.Ready) -> bool:
        # Trouble that a failed read left behind is not the answer to the read that came after it.
        object_id = ready.object_id
        if object_id not in self.doubted:
            return False
        self.doubted.discard(object_id)
        if ready.offset != TROUBLE or object_id not in self.counts:
            return False
        self.wanted.add(object_id)
        self._send(m.Want([object_id]))
        return True

    def _is_old(self, ready: m.Ready) -> bool:
        # Its last ref went before this came, and one has come back since: the node may have sent
        # this before it read of that, and may then give its place to another value unasked.
        object_id = ready.object_id
        is_old = bool(ready.size) and object_id in self.counts
        if is_old and object_id in self.wanted:
            self._send(m.Want([object_id]))
        self.unanswered.pop(object_id, None)
        return is_old

    def _on_elsewhere(self, object_id: bytes) -> None:
        if object_id not in self.counts:
            self.wanted.discard(object_id)
            return
        self.elsewhere.add(object_id)
        # One that was asked for may have come, and gone before this process could be told.
        if object_id in self.fetching or object_id in self.wanted:
            self.fetching.discard(object_id)
            self.wanted.add(object_id)
            self._send(m.Want([object_id]))

    def on_revoke(self, revoke: m.Revoke) -> None:
        """The node wants the space of these, and says so to those who know their places.

        A place is taken out first and then looked for among the reads, while a read enters itself
        first and then looks for the place: so what is being read is never forgotten.
        """
        forgotten = []
        for object_id in revoke.object_ids:
            if object_id in self.here:
                for revoked in list(self.waits.values()):
                    revoked.add(object_id)
            ready = self.here.pop(object_id, None)
            if ready is not None:
                # A copy of the list: if another thread's get ends meanwhile, none is passed over.
                if any(object_id in needed for needed in list(self.reads)):
                    self.here[object_id] = ready
                    continue
                self.elsewhere.add(object_id)
            forgotten.append(object_id)
        if forgotten:
            self._send(m.Revoked(revoke.number, forgotten))

    # ------------------------------------------------------------------ what is known

    def state(self, object_id: bytes) -> ValueState:
        """Where one object stands."""
        if object_id in self.here:
            return ValueState.TROUBLED if object_id in self.troubled else ValueState.HERE
        is_unanswered = object_id in self.unanswered
        if object_id in self.wanted:
            return ValueState.WANTED_AGAIN if is_unanswered else ValueState.WANTED
        if object_id in self.elsewhere:
            return ValueState.ELSEWHERE
        if object_id in self.promised:
            return ValueState.FETCHING if object_id in self.fetching else ValueState.PROMISED
        return ValueState.UNANSWERED if is_unanswered else ValueState.UNKNOWN

    def is_empty(self) -> bool:
        """Whether nothing is kept (but for answers that may still come)."""
        return not (
            self.here or self.promised or self.fetching or self.elsewhere or self.wanted
            or self.doubted or self.troubled or self.reads or self.waits
        )  # fmt: skip

    def check(self) -> None:
        """Assert what holds when no thread is in the middle of a step."""
        here, counts = self.here.keys(), self.counts.keys()
        assert here.isdisjoint(self.promised), "promised, and here"
        assert here.isdisjoint(self.wanted), "asked for, though it is here"
        assert here.isdisjoint(self.elsewhere), "here and elsewhere"
        assert self.promised.isdisjoint(self.wanted), "asked for, though it is promised"
        assert self.promised.isdisjoint(self.elsewhere), "promised, though it has come to be"
        assert self.troubled <= here, "trouble with nothing"
        assert self.doubted <= self.wanted, "doubted, though not asked for"
        for known in (
            here,
            self.promised,
            self.fetching,
            self.elsewhere,
            self.wanted,
            self.doubted,
        ):
            assert known <= counts, "kept for nobody"
        assert len(self.unanswered) <= UNANSWERED_KEPT


class Wait:
    """One wait() call: which of its values have been here since it began.

    ``anywhere``: what is on any node counts as well. Use it as a context while values are awaited;
    ``positions`` can be asked before that.
    """

    __slots__ = ("_count", "_elsewhere", "_missing", "_object_ids", "_revoked", "_values")

    def __init__(
        self, values: ValueTable, object_ids: Sequence[bytes], count: int, *, anywhere: bool
    ) -> None:
        self._values = values
        self._object_ids = object_ids
        self._count = count
        self._elsewhere: set[bytes] | None = values.elsewhere if anywhere else None
        self._missing: set[bytes] | None = None  # not here since this began; None: not looked yet
        self._revoked: set[bytes] = set()

    def __enter__(self) -> Wait:
        self._values.waits[id(self)] = self._revoked
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._values.waits.pop(id(self), None)

    def unheard_of(self) -> Sequence[bytes]:
        """Those that are of use only if somebody asks for them."""
        if self._elsewhere is None:
            return self._object_ids
        return list(set(self._object_ids) - self._values.promised - self._elsewhere)

    def is_over(self) -> bool:
        """Whether enough are ready. What was here once counts, though it was revoked since."""
        missing = self._missing
        if missing is None:
            missing = set(self._object_ids)
        # Set operations: with thousands of refs, a loop here would be felt.
        self._missing = missing = missing.difference(self._values.here, self._revoked)
        few_enough = len(self._object_ids) - self._count
        elsewhere = self._elsewhere
        return len(missing) <= few_enough or (
            bool(elsewhere) and len(missing.difference(elsewhere or ())) <= few_enough
        )

    def positions(self) -> list[int]:
        """Positions of the first ``count`` that are ready, in input order; fewer if fewer are."""
        missing, here = self._missing, self._values.here
        elsewhere: Container[bytes] = () if self._elsewhere is None else self._elsewhere
        found: list[int] = []
        for position, object_id in enumerate(self._object_ids):
            is_here = object_id in here if missing is None else object_id not in missing
            if is_here or object_id in elsewhere:
                found.append(position)
                if len(found) == self._count:
                    break
        return found


def first_error(here: Mapping[bytes, m.Ready], object_ids: Sequence[bytes]) -> bytes | None:
    """The payload of the first of these values that is an error."""
    for object_id in object_ids:
        ready = here.get(object_id)
        if ready is not None and ready.data[:1] == FORMAT_ERROR:
            return ready.data
    return None
