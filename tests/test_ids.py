"""Ids: no two alike, each tells its parents."""

from __future__ import annotations

import pytest

from skate import ids

JOB, SUBMITTER = b"jjjj", b"nnnnsss"


def test_ids_have_their_widths_and_tell_where_they_come_from() -> None:
    counter = ids.TaskIdCounter(JOB, SUBMITTER)
    task_id, put_id = counter.next_task(), counter.next_put()
    assert len(task_id) == ids.TASK_ID_BYTES == ids.ACTOR_ID_BYTES
    assert len(put_id) == len(ids.return_id(task_id, 3)) == ids.OBJECT_ID_BYTES
    assert ids.task_of(ids.return_id(task_id, 3)) == task_id
    assert ids.return_id(task_id, 0) == task_id + ids.FIRST_RETURN
    assert ids.job_of(task_id) == ids.job_of(put_id) == JOB
    assert ids.task_of(put_id) == JOB + SUBMITTER + bytes(5)  # the process itself


def test_every_id_tells_its_home_node_and_its_creator() -> None:
    counter = ids.TaskIdCounter(JOB, SUBMITTER)
    task_id = counter.next_task()
    for one in (task_id, counter.next_put(), ids.return_id(task_id, 0), ids.handle_id(task_id)):
        assert ids.home_of(one) == b"nnnn"
        assert ids.submitter_of(one) == SUBMITTER


def test_no_id_comes_twice() -> None:
    counter = ids.TaskIdCounter(JOB, SUBMITTER)
    tasks = [counter.next_task() for _ in range(1_000)]
    made = [counter.next_put() for _ in range(1_000)]
    made += [ids.return_id(task, index) for task in tasks for index in range(3)]
    made += [ids.handle_id(task) for task in tasks]
    assert len(set(made)) == len(made)


def test_handles_are_told_from_values() -> None:
    counter = ids.TaskIdCounter(JOB, SUBMITTER)
    actor_id = counter.next_task()
    assert ids.is_handle_id(ids.handle_id(actor_id))
    assert not ids.is_handle_id(ids.return_id(actor_id, 0))
    assert not ids.is_handle_id(counter.next_put())


def test_two_submitters_never_meet() -> None:
    one, other = ids.TaskIdCounter(JOB, b"nnnn111"), ids.TaskIdCounter(JOB, b"nnnn222")
    assert one.next_task() != other.next_task()
    assert one.next_put() != other.next_put()


@pytest.mark.parametrize(("job", "submitter"), [(b"jjj", SUBMITTER), (JOB, b"ssssss")])
def test_a_prefix_of_the_wrong_width_is_refused(job: bytes, submitter: bytes) -> None:
    with pytest.raises(ValueError, match="prefix"):
        ids.TaskIdCounter(job, submitter)
