"""Other programs that keep the machine busy while something is measured."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

# It looks whether its parent is still there: one that was killed could not end it.
PROGRAM = """
import os, sys
parent = int(sys.argv[1])
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextlib.contextmanager
def busy(count: int) -> Iterator[list[int]]:
    """Keep ``count`` processes computing, at the priority of this one; their ids."""
    with contextlib.ExitStack() as stack:
        pids = []
        for _ in range(count):
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", PROGRAM, str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # a Ctrl-C is theirs too
                )
            )
            stack.callback(process.kill)  # runs before the wait of Popen's own exit
            pids.append(process.pid)
        yield pids
