"""Makes a fresh worker the driver's: environment variables, module path, working directory."""

from __future__ import annotations

import contextlib
import os
import sys
import time

from skate import messages as m
from skate.spec import JobConfig


def _module_path(job: JobConfig, own: list[str]) -> list[str]:
    """The driver's ``sys.path``. Entries that this machine does not have are replaced by ours."""
    path = [os.fsdecode(part) for part in job.sys_path]
    missing = {part for part in path if os.path.isabs(part) and not os.path.exists(part)}
    if missing <= set(own):  # the library in a zip file, which nobody has
        return path
    found = [part for part in path if part not in missing]
    return found + [part for part in own if part not in found]


def take_over(setup: m.WorkerSetup) -> None:
    """Make the driver's world this process's own: environment, module path, folder."""
    job = setup.job
    os.environ.clear()
    os.environb.update(job.environ)
    os.environ["SKATE_SESSION"] = setup.session
    # As Ray does: a task gets as many native threads as CPUs, unless the user chose.
    os.environ.setdefault("OMP_NUM_THREADS", str(setup.threads))
    sys.path[:] = _module_path(job, sys.path)
    sys.argv = [job.entrypoint] if job.entrypoint else [""]
    with contextlib.suppress(OSError):
        os.chdir(job.working_dir)
    time.tzset()
    if os.environ.get("SKATE_ALIAS_RAY"):
        from skate.client.ray_alias import install_ray_alias

        install_ray_alias()
