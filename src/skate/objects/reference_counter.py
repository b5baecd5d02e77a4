"""The number of refs to each object in this process, and the news of them for its node.

Pure; one per client process. ``ObjectRef.__del__`` may run in any thread, at any bytecode, inside
our own code: it, and every ref that is born from a pickle, only append to ``journal`` (an atomic
operation). The owner of the connection drains the journal under its lock before each flush.

A journal entry is the id itself for a death and a 1-tuple of it for a birth; the journal keeps
their order, so a count never dips below its true value. Refs made by submit and put are entered
directly (``born_here``): the message that makes them tells the node of the hold.
"""

from __future__ import annotations

from collections import deque

Journal = deque[bytes | tuple[bytes]]

# The journal of this process: ObjectRefs are born and die without knowing a runtime.
process_journal: Journal = deque()


class ReferenceCounter:
    """See the module's docstring. Ids that it does not know are of an older session: ignored."""

    __slots__ = ("counts", "journal")

    def __init__(self, journal: Journal | None = None) -> None:
        self.counts: dict[bytes, int] = {}
        self.journal: Journal = deque() if journal is None else journal

    def born_here(self, object_id: bytes) -> None:
        """The first ref of an object that this process's next message makes."""
        self.counts[object_id] = 1

    def drain(self) -> tuple[list[bytes], list[bytes]]:
        """(ids to hold, ids to release) since the last drain.

        An id that was born and died in between is in neither. Holds have to be sent before
        releases: a ref found inside an object is held before its container goes.
        """
        journal = self.journal
        counts = self.counts
        new: dict[bytes, None] = {}
        gone: dict[bytes, None] = {}
        # Later entries are left to the next drain, or a busy thread could keep us here.
        for _ in range(len(journal)):
            entry = journal.popleft()
            if isinstance(entry, tuple):
                object_id = entry[0]
                count = counts.get(object_id)
                if count is not None:
                    counts[object_id] = count + 1
                    continue
                counts[object_id] = 1
                if object_id in gone:
                    del gone[object_id]  # dead and back before the node heard: nothing to tell
                else:
                    new[object_id] = None
            else:
                count = counts.get(entry)
                if count is None:
                    continue
                if count > 1:
                    counts[entry] = count - 1
                    continue
                del counts[entry]
                if entry in new:
                    del new[entry]
                else:
                    gone[entry] = None
        return list(new), list(gone)

    def check(self) -> None:
        """Assert that no count is below one."""
        assert all(count > 0 for count in self.counts.values())
