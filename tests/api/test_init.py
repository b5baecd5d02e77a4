"""init, shutdown, is_initialized: once, twice, wrongly, in a with block, and not at all."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

import skate
from tests.conftest import Leftovers, RunProgram


@skate.remote
def echo(value: Any) -> Any:
    return value


def test_init_and_shutdown_again_and_again(no_leftovers: Leftovers) -> None:
    names = set()
    for n in range(3):
        assert not skate.is_initialized()
        skate.init(num_cpus=1)
        assert skate.is_initialized()
        names.add(no_leftovers.watch())
        assert skate.get(echo.remote(n)) == n
        skate.shutdown()
        skate.shutdown()
    assert len(names) == 3


def test_the_first_call_starts_a_session(no_leftovers: Leftovers) -> None:
    assert not skate.is_initialized()
    assert skate.get(skate.put(1)) == 1
    assert skate.is_initialized()
    no_leftovers.watch()


@pytest.mark.parametrize(
    "use",
    [
        lambda: skate.nodes(),
        lambda: skate.cluster_resources(),
        lambda: skate.available_resources(),
        lambda: echo.remote(1),
        lambda: skate.get_runtime_context().get_job_id(),
    ],
    ids=["nodes", "cluster_resources", "available_resources", "remote", "context"],
)
def test_whatever_the_first_call_is(use: Any) -> None:
    assert use()
    assert skate.is_initialized()


def test_auto_init_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ENABLE_AUTO_CONNECT", "0")
    with pytest.raises(skate.exceptions.RuntimeClosedError, match="init"):
        skate.put(1)
    assert not skate.is_initialized()


def test_calls_that_need_no_session_start_none() -> None:
    assert skate.wait([]) == ([], [])
    assert skate.get([]) == []
    with pytest.raises(ValueError, match="ObjectRef"):
        skate.get(5)
    assert not skate.is_initialized()


def test_a_second_init() -> None:
    first = skate.init(num_cpus=1)
    with pytest.raises(RuntimeError, match="twice"):
        skate.init()
    again = skate.init(num_cpus=8, ignore_reinit_error=True)
    assert again.address_info == first.address_info
    assert skate.cluster_resources()["CPU"] == 1.0


def test_with_init(no_leftovers: Leftovers) -> None:
    with skate.init(num_cpus=1) as context:
        no_leftovers.watch()
        assert skate.get(echo.remote(1)) == 1
        assert context["node_id"] == context.address_info["node_id"]
        assert os.path.isdir(context.address_info["session_dir"])
    assert not skate.is_initialized()


def test_an_error_in_a_with_block_ends_the_session_too(no_leftovers: Leftovers) -> None:
    with pytest.raises(ZeroDivisionError), skate.init(num_cpus=1):
        no_leftovers.watch()
        _ = 1 / 0
    assert not skate.is_initialized()


def test_disconnect_is_shutdown() -> None:
    skate.init(num_cpus=1).disconnect()
    assert not skate.is_initialized()


def test_what_init_is_given_is_what_the_cluster_has() -> None:
    skate.init(num_cpus=3, num_gpus=2, resources={"tape": 1.5}, object_store_memory=100 << 20)
    total = skate.cluster_resources()
    assert total["CPU"] == 3.0
    assert total["GPU"] == 2.0
    assert total["tape"] == 1.5
    assert total["object_store_memory"] == 100 << 20
    assert total["memory"] > 0
    assert skate.available_resources() == total


def test_no_cpus_at_all() -> None:
    skate.init(num_cpus=0)
    assert "CPU" not in skate.cluster_resources()
    assert skate.get(echo.options(num_cpus=0).remote(1), timeout=20) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"nonsense": 1}, RuntimeError, "nonsense"),
        ({"local_mode": True}, RuntimeError, "local_mode"),
        ({"num_cpus": -1}, ValueError, "num_cpus"),
        ({"num_cpus": "2"}, TypeError, "num_cpus"),
        ({"num_cpus": True}, TypeError, "num_cpus"),
        ({"num_cpus": float("nan")}, ValueError, "num_cpus"),
        ({"num_cpus": float("inf")}, ValueError, "num_cpus"),
        ({"num_gpus": -1}, ValueError, "num_gpus"),
        ({"num_gpus": 1.5}, ValueError, "num_gpus"),
        ({"resources": {"CPU": 1}}, ValueError, "CPU"),
        ({"resources": {"x": -1}}, ValueError, "x"),
        ({"resources": {"x": "1"}}, (TypeError, ValueError), "x"),
        ({"resources": {5: 1}}, TypeError, "5"),
        ({"resources": [1]}, TypeError, "resources"),
        ({"labels": {"a": 1}}, TypeError, "labels"),
        ({"object_store_memory": 1000}, ValueError, "object_store_memory"),
        ({"object_store_memory": "1G"}, TypeError, "object_store_memory"),
        ({"namespace": ""}, ValueError, "namespace"),
        ({"namespace": 5}, (TypeError, ValueError), "namespace"),
        ({"address": 5}, TypeError, "address"),
        ({"address": "auto"}, ConnectionError, "auto"),
        ({"address": "10.9.8.7"}, ValueError, "HOST:PORT"),
        ({"address": "10.9.8.7:1"}, ConnectionError, "no node of that cluster"),
        ({"address": "http://far:1"}, ValueError, "http"),
        ({"runtime_env": {"pip": ["x"]}}, NotImplementedError, "runtime_env"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_values_are_refused_and_nothing_is_started(
    arguments: Any, error: Any, says: str
) -> None:
    with pytest.raises(error, match=says):
        skate.init(**arguments)
    assert not skate.is_initialized()


def test_an_address_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ConnectionError, match="RAY_ADDRESS"):
        skate.init()
    skate.init("local", num_cpus=1)
    assert skate.get(echo.remote(1)) == 1


def test_init_inside_a_running_loop() -> None:
    async def work() -> Any:
        skate.init(num_cpus=1)
        return await echo.remote("value")

    assert asyncio.run(work()) == "value"


def test_what_a_program_that_is_imported_by_its_workers_may_call() -> None:
    """``init(ignore_reinit_error=True)`` at the top of a module is a habit of many programs."""
    skate.init(num_cpus=1)

    @skate.remote
    def inside() -> Any:
        context = skate.init(ignore_reinit_error=True)
        try:
            skate.init()
        except RuntimeError as error:
            refusal = str(error)
        name = skate.get_runtime_context().get_session_name()
        skate.shutdown()  # does nothing here
        return skate.is_initialized(), context.address_info["session_dir"], name, refusal

    connected, folder, name, refusal = skate.get(inside.remote(), timeout=20)
    assert connected
    assert os.path.basename(folder) == name == skate.get_runtime_context().get_session_name()
    assert "task" in refusal


def test_a_module_that_calls_init_when_it_is_imported(
    run_program: RunProgram, tmp_path: Path
) -> None:
    (tmp_path / "library.py").write_text(
        "import skate\n"
        "skate.init(ignore_reinit_error=True, num_cpus=1)\n"
        "@skate.remote\n"
        "def f(x): return x + 1\n"
    )
    done = run_program("import library, skate; print(skate.get(library.f.remote(1), timeout=20))")
    assert done.stdout == "2\n", done.stderr


def test_a_program_without_a_main_guard_runs_once(run_program: RunProgram) -> None:
    done = run_program(
        """
        import skate
        print("begins")
        skate.init(num_cpus=1)
        @skate.remote
        def f(): return 1
        print(skate.get(f.remote()))
        """
    )
    assert done.stdout == "begins\n1\n", done.stderr


def test_a_new_session_after_the_old_one_died(run_program: RunProgram) -> None:
    done = run_program(
        """
        import json, os, signal, time, skate
        context = skate.init(num_cpus=1)
        description = os.path.join(context.address_info["session_dir"], "session.json")
        with open(description) as file:
            os.kill(json.load(file)["node_pid"], signal.SIGKILL)
        ref = None
        try:
            while True:
                ref = skate.put(1)
                skate.nodes()
        except skate.exceptions.LocalRayletDiedError as error:
            assert "SIGKILL" in str(error), error
        assert not skate.is_initialized()
        skate.init(num_cpus=1)
        print(skate.get(skate.put("again")))
        """
    )
    assert done.stdout == "again\n", done.stderr


def test_the_current_folder_is_gone(run_program: RunProgram) -> None:
    done = run_program(
        """
        import os, tempfile, skate
        folder = tempfile.mkdtemp()
        os.chdir(folder)
        os.rmdir(folder)
        f = skate.remote(lambda x: x + 1)
        print(skate.get(f.remote(1)))
        """
    )
    assert done.stdout == "2\n", done.stderr


def test_a_temporary_folder_with_a_path_too_long_for_a_socket(
    run_program: RunProgram, tmp_path: Path
) -> None:
    done = run_program(
        "import skate; print(skate.get(skate.put(1)))",
        environ={"SKATE_TEMP_DIR": str(tmp_path / ("x" * 100))},
    )
    assert done.stdout == "1\n", done.stderr
