"""The allocator of one node's shared-memory arena: extents of the file, and holes.

The node's object store asks it for an extent when an object is created and gives the extent back
once no process can read it any more. First fit from the lowest address: low pages have been touched
before, so tmpfs already backs them and a writer takes no page faults that must find fresh memory.

Invariants, all asserted by `check()`:
  - live extents and holes tile the arena: no overlap, no gap, everything on page boundaries;
  - holes are maximal: no two of them touch;
  - for every hole, start <= stale end <= end; from its stale end upward a hole holds no memory.

The arena knows no file, no object and no pin. Freed bytes are reused by the very next `allocate`,
so the caller frees an extent only when no process maps it. Extents never move: readers hold
addresses. A failed `allocate` changes nothing; the caller decides what to evict or spill.
"""

from __future__ import annotations

from bisect import bisect_left


class Arena:
    """Extents (offset, size) of an arena of `capacity_bytes`, handed out in whole pages.

    `capacity_bytes` is rounded down to whole pages. Raises ValueError if that leaves no page.
    Allocating and freeing cost about a microsecond, plus a scan over the holes that are too small.
    """

    def __init__(self, capacity_bytes: int, page_bytes: int = 4096) -> None:
        if page_bytes < 1:
            raise ValueError(f"page_bytes must be at least 1, not {page_bytes}")
        if capacity_bytes < page_bytes:
            raise ValueError(
                f"an arena needs at least one page ({page_bytes} bytes), not {capacity_bytes} bytes"
            )
        self._page_bytes = page_bytes
        self._capacity_bytes = capacity_bytes - capacity_bytes % page_bytes
        self._used_bytes = 0
        self._extents: dict[int, int] = {}  # offset -> size of each live extent
        # The holes by address, as three parallel lists: `allocate` scans sizes alone and `free`
        # bisects starts alone. Since holes merge, there is at most one more than there are extents.
        self._hole_starts = [0]
        self._hole_sizes = [self._capacity_bytes]
        self._hole_stale_ends = [0]

    def __len__(self) -> int:
        """The number of live extents."""
        return len(self._extents)

    @property
    def capacity_bytes(self) -> int:
        """The size of the arena, in whole pages."""
        return self._capacity_bytes

    @property
    def used_bytes(self) -> int:
        """The bytes of all live extents, as rounded up to pages."""
        return self._used_bytes

    @property
    def largest_hole_bytes(self) -> int:
        """The largest size that `allocate` would grant now; 0 when the arena is full."""
        return max(self._hole_sizes, default=0)

    @property
    def high_water_bytes(self) -> int:
        """The end of the highest page that was in use at any moment since the last `trim`."""
        if self._hole_starts:
            last_hole_end = self._hole_starts[-1] + self._hole_sizes[-1]
            if last_hole_end == self._capacity_bytes:
                return self._hole_stale_ends[-1]
        return self._capacity_bytes

    def size_of(self, offset: int) -> int:
        """The bytes of the live extent at `offset`, in whole pages. KeyError if there is none."""
        size = self._extents.get(offset)
        if size is None:
            raise KeyError(f"no live extent at arena offset {offset}")
        return size

    def allocate(self, size_bytes: int) -> int | None:
        """Take the lowest hole that fits and return its offset; None if no hole is large enough.

        The size is rounded up to whole pages, 0 to one page. A negative size raises ValueError.
        """
        if size_bytes < 0:
            raise ValueError(f"cannot allocate {size_bytes} bytes")
        page_bytes = self._page_bytes
        size = -(-size_bytes // page_bytes) * page_bytes or page_bytes
        for index, hole_size in enumerate(self._hole_sizes):
            if hole_size >= size:
                offset = self._take(index, size)
                self._extents[offset] = size
                self._used_bytes += size
                return offset
        return None

    def free(self, offset: int) -> int:
        """Give the extent at `offset` back, merged with the holes beside it; return its bytes.

        KeyError if no extent starts there: a double free would hand the same bytes to two objects.
        """
        size = self._extents.pop(offset, None)
        if size is None:
            raise KeyError(
                f"no live extent at arena offset {offset}: freed twice or never allocated"
            )
        self._used_bytes -= size
        self._give_back(offset, size)
        return size

    def trim(self) -> list[tuple[int, int]]:
        """The free spans (offset, size) that may still hold memory, for the caller to punch out.

        They count as empty from now on, so the caller punches them before it allocates again: a
        later punch could wipe an object. A span starts where its hole starts, so it may repeat
        bytes of an earlier trim, which does no harm; a hole unused since then is left out.
        """
        spans = [
            (start, stale_end - start)
            for start, stale_end in zip(self._hole_starts, self._hole_stale_ends, strict=True)
            if stale_end > start
        ]
        self._hole_stale_ends = self._hole_starts.copy()
        return spans

    def check(self) -> None:
        """Assert every invariant of the module. Linear in extents; for tests and the simulator."""
        holes = list(zip(self._hole_starts, self._hole_sizes, self._hole_stale_ends, strict=True))
        spans = [(start, size, True) for start, size, _ in holes]
        spans += [(offset, size, False) for offset, size in self._extents.items()]
        position, after_hole = 0, False
        for start, size, is_hole in sorted(spans):
            assert start == position, f"gap or overlap: expected {position}, found {start}"
            assert size > 0 and size % self._page_bytes == 0, f"bad size {size} at {start}"
            assert not (is_hole and after_hole), f"unmerged hole at {start}"
            position, after_hole = start + size, is_hole
        assert position == self._capacity_bytes, f"spans end at {position}, not at the capacity"
        assert self._hole_starts == sorted(self._hole_starts), "holes out of order"
        assert self._used_bytes == sum(self._extents.values()), "used bytes do not add up"
        for start, size, stale_end in holes:
            assert start <= stale_end <= start + size, f"stale end {stale_end} outside hole {start}"
            assert stale_end % self._page_bytes == 0, f"stale end {stale_end} inside a page"

    def _take(self, index: int, size: int) -> int:
        """Cut `size` bytes off the low end of a hole; returns where they start."""
        offset = self._hole_starts[index]
        if self._hole_sizes[index] == size:
            self._remove_hole(index)
            return offset
        rest = offset + size
        self._hole_starts[index] = rest
        self._hole_sizes[index] -= size
        if self._hole_stale_ends[index] < rest:
            self._hole_stale_ends[index] = rest
        return offset

    def _give_back(self, offset: int, size: int) -> None:
        """Turn a span into a hole, or into a part of the holes that it touches."""
        starts, sizes, stale_ends = self._hole_starts, self._hole_sizes, self._hole_stale_ends
        end = offset + size
        right = bisect_left(starts, offset)
        left = right - 1
        joins_left = left >= 0 and starts[left] + sizes[left] == offset
        joins_right = right < len(starts) and starts[right] == end
        if joins_left and joins_right:
            sizes[left] += size + sizes[right]
            stale_ends[left] = stale_ends[right]  # never below `end`, which is where `right` starts
            self._remove_hole(right)
        elif joins_left:
            sizes[left] += size
            stale_ends[left] = end
        elif joins_right:
            starts[right] = offset
            sizes[right] += size  # its stale end holds already, for the same reason
        else:
            starts.insert(right, offset)
            sizes.insert(right, size)
            stale_ends.insert(right, end)

    def _remove_hole(self, index: int) -> None:
        del self._hole_starts[index], self._hole_sizes[index], self._hole_stale_ends[index]
