"""Several node cores and the GCS as event lists: what races between them must not lose."""

from __future__ import annotations

from skate import messages as m
from tests.node.played_cluster import Cluster, comes_alive, create
from tests.node.played_node import Client, runs

DETACHED = {"detached": True, "name": "x", "namespace": "y"}


def test_the_running_task_of_a_driver_that_has_ended_is_not_run_again() -> None:
    """Though a detached actor of its job stays, and with it the job's queues."""
    cluster = Cluster()
    home = cluster.add("h")
    driver = Client(home)
    actor_id = create(driver, DETACHED)
    comes_alive(home, actor_id)
    task = driver.submit()
    worker = home.came_up()
    assert runs(home, worker) == [task[:16]]
    home.say(driver.peer, m.Leaving("bye"))
    assert worker.worker is not None
    home.core.workers.exited(worker.worker, -9)
    home.turn()
    cluster.run()
    assert home.core.scheduler.queued() == 0
    assert home.actor_state(actor_id) == "ALIVE"
