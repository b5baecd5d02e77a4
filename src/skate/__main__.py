"""Roles to entries: ``python -m skate gcs``, ``node`` are daemons; anything else is the CLI.

A driver starts its daemons by the path of this file. SKATE_PATH then names the folders of the
modules that they need; those go last, so that nothing in them can hide the standard library.
"""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Run the role named by the first argument."""
    role = sys.argv[1] if len(sys.argv) > 1 else ""
    if role in ("node", "gcs"):
        _become_daemon()
    if role == "node":
        from skate.node.shell.node_daemon import main as node_main

        node_main(sys.argv[2:])
    elif role == "gcs":
        from skate.gcs.gcs_server import main as gcs_main

        gcs_main(sys.argv[2:])
    else:
        from skate.cli.main import main as cli_main

        cli_main()


def _become_daemon() -> None:
    gc.disable()  # until it runs: nothing that is loaded for good is garbage
    os.chdir("/")
    if os.getpgrp() != os.getpid():  # else whoever started it has seen to it
        os.setsid()


if __name__ == "__main__":
    sys.path += [
        folder
        for folder in os.environ.pop("SKATE_PATH", "").split(os.pathsep)
        if folder and folder not in sys.path
    ]
    main()
