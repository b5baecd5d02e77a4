"""The transition tables: complete, every state reachable, the last ones final."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import pytest

from skate import states
from skate.states import IllegalMove, advance

# table, first state, final states
LIFE_CYCLES: list[tuple[dict[Any, Any], IntEnum, set[IntEnum]]] = [
    (
        states.TASK_MOVES,
        states.TaskState.WAITING,
        {states.TaskState.FINISHED, states.TaskState.FAILED},
    ),
    (
        states.ACTOR_MOVES,
        states.ActorState.DEPENDENCIES_UNREADY,
        {states.ActorState.DEAD},
    ),
    (states.WORKER_MOVES, states.WorkerState.STARTING, {states.WorkerState.DEAD}),
    (states.OBJECT_MOVES, states.ObjectState.PENDING, {states.ObjectState.FREED}),
    (states.NODE_MOVES, states.NodeState.ALIVE, {states.NodeState.DEAD}),
    (
        states.PLACEMENT_GROUP_MOVES,
        states.PlacementGroupState.PENDING,
        {states.PlacementGroupState.REMOVED},
    ),
    (states.LANE_MOVES, states.LaneState.EXPECTED, {states.LaneState.GONE}),
]


@pytest.mark.parametrize(("table", "first", "final"), LIFE_CYCLES)
def test_every_state_can_be_reached_and_left_unless_it_is_final(
    table: dict[Any, tuple[Any, ...]], first: IntEnum, final: set[IntEnum]
) -> None:
    assert set(table) == set(type(first))
    reached, todo = {first}, [first]
    while todo:
        for state in table[todo.pop()]:
            if state not in reached:
                reached.add(state)
                todo.append(state)
    assert reached == set(table)
    assert {state for state, moves in table.items() if not moves} == final


@pytest.mark.parametrize(("table", "first", "final"), LIFE_CYCLES)
def test_only_moves_of_the_table_are_made(
    table: dict[Any, tuple[Any, ...]], first: IntEnum, final: set[IntEnum]
) -> None:
    for state, moves in table.items():
        for to in table:
            if to in moves:
                assert advance(table, state, to) is to
            else:
                with pytest.raises(IllegalMove, match=f"{state.name} -> {to.name}"):
                    advance(table, state, to)


def test_short_names_are_those_of_their_members() -> None:
    for name in dir(states):
        for prefix, life in (("TASK_", states.TaskState), ("WORKER_", states.WorkerState)):
            member = name.removeprefix(prefix)
            if name.startswith(prefix) and member != "MOVES":
                assert getattr(states, name) is life[member]
