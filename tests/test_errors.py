"""The exception tree, and errors on their way from a failing task to the caller of `get`."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
import threading
import types
from typing import Any

import cloudpickle
import msgspec
import pytest

from skate import errors, exceptions
from skate.error_records import (
    CHAIN_NAMES,
    ErrorRecord,
    decode_error,
    encode_error,
    raise_form,
    record_task_error,
    with_dependant,
)
from skate.errors import (
    ActorDiedError,
    ActorError,
    ObjectReconstructionFailedError,
    SkateError,
    SystemFailureError,
    TaskError,
    UnserializableException,
    WorkerCrashedError,
)

CLASSES = sorted(
    {
        value
        for value in vars(exceptions).values()
        if isinstance(value, type) and issubclass(value, SkateError)
    },
    key=lambda cls: cls.__name__,
)


# --- exceptions that give trouble -----------------------------------------------------------------


class Coded(Exception):
    code = 0
    cause_of_death = "none"

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code

    def doubled(self) -> int:
        return self.code * 2


class Slotted(Exception):
    __slots__ = ("depth",)
    depth: int


class NeedsKeyword(Exception):
    """Pickles, but cannot be loaded by calling it with its args."""

    def __init__(self, *, reason: str) -> None:
        super().__init__(f"reason {reason}")
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    x: int


class NoSubclass(Exception):
    def __init_subclass__(cls, **kwargs: Any) -> None:
        raise TypeError("final")


class PicksNew(Exception):
    def __new__(cls, first: int, second: int) -> PicksNew:
        return super().__new__(cls, first, second)


class OwnReduceEx(Exception):
    def __reduce_ex__(self, protocol: Any) -> Any:
        return OwnReduceEx, self.args


class Meta(type):
    pass


class WithMeta(Exception, metaclass=Meta):
    pass


class Group(ExceptionGroup[Exception]):
    def derive(self, excs: Any) -> Any:
        return Group(self.message, excs)


class TakesOurNames(Exception):
    @property
    def cause(self) -> str:
        return "theirs"

    @property
    def pid(self) -> str:
        return "theirs"


def failed(exc: BaseException, name: str = "f", **where: Any) -> ErrorRecord:
    """The record of a task that raised `exc`, after a trip over the wire."""
    try:
        raise exc
    except BaseException as caught:
        record = record_task_error(caught, name, **{"pid": 7, "ip": "10.0.0.1", **where})
    return decode_error(encode_error(record))


def got(exc: BaseException, **where: Any) -> Any:
    return raise_form(failed(exc, **where), pickle.loads)


# --- the tree -------------------------------------------------------------------------------------


def test_names_of_ray_are_the_same_classes() -> None:
    assert exceptions.RayError is exceptions.SkateError
    assert exceptions.RayTaskError is exceptions.TaskError
    assert exceptions.RayActorError is exceptions.ActorError
    assert exceptions.RaySystemError is exceptions.SystemFailureError
    assert exceptions.LocalRayletDiedError is exceptions.LocalNodeDiedError


def test_every_error_is_public() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, SkateError)
    }
    assert defined <= set(exceptions.__all__)
    assert all(hasattr(exceptions, name) for name in exceptions.__all__)


@pytest.mark.parametrize(
    ("cls", "base"),
    [
        (exceptions.GetTimeoutError, TimeoutError),
        (exceptions.ActorAlreadyExistsError, ValueError),
        (exceptions.ActorHandleNotFoundError, ValueError),
        (exceptions.ReferenceCountingAssertionError, AssertionError),
        (exceptions.ActorDiedError, exceptions.ActorError),
        (exceptions.ActorUnavailableError, exceptions.ActorError),
        (exceptions.OwnerDiedError, exceptions.ObjectLostError),
        (exceptions.ObjectFreedError, exceptions.ObjectLostError),
        (exceptions.ObjectFetchTimedOutError, exceptions.ObjectLostError),
        (exceptions.ObjectReconstructionFailedError, exceptions.ObjectLostError),
    ],
)
def test_is_also_caught_as(cls: type, base: type) -> None:
    assert issubclass(cls, base)
    assert issubclass(cls, SkateError)


def test_branches_do_not_overlap() -> None:
    branches = (errors.UsageError, errors.RemoteCodeError, errors.ClusterFailureError)
    for cls in set(CLASSES) - {SkateError}:
        assert sum(issubclass(cls, branch) for branch in branches) == 1, cls


def test_catching_internal_errors_does_not_catch_crashes() -> None:
    assert not issubclass(WorkerCrashedError, SystemFailureError)
    assert not issubclass(ActorDiedError, SystemFailureError)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_can_be_made_and_pickled(cls: type[SkateError]) -> None:
    original = cls("what happened")
    original.extra = [1, 2]  # type: ignore[attr-defined]
    copy = pickle.loads(pickle.dumps(original))
    assert type(copy) is cls
    assert str(copy) == str(original)
    assert vars(copy) == vars(original)
    assert isinstance(str(cls()), str)


def test_attributes_survive_pickling() -> None:
    actor = pickle.loads(pickle.dumps(ActorDiedError("gone", b"\x01\x02", preempted=True)))
    assert (actor.actor_id, actor.error_msg, actor.preempted) == ("0102", "gone", True)
    lost = ObjectReconstructionFailedError("ab", "owner", "line 3", reason="PUT")
    lost = pickle.loads(pickle.dumps(lost))
    assert (lost.object_ref_hex, lost.owner_address, lost.reason) == ("ab", "owner", "PUT")
    assert "object ab" in str(lost)


def test_errors_without_a_text_still_say_something() -> None:
    assert "may or may not" in str(exceptions.ActorUnavailableError())
    assert "timeout" in str(exceptions.GetTimeoutError())
    assert "worker process died" in str(WorkerCrashedError())


# --- TaskError ------------------------------------------------------------------------------------


def test_is_an_instance_of_the_cause_class() -> None:
    error = got(ValueError("bad", 3))
    assert type(error).__name__ == "TaskError(ValueError)"
    assert isinstance(error, TaskError)
    assert isinstance(error, ValueError)
    assert error.args == (error.cause,)
    assert type(error.cause) is ValueError
    assert error.cause.args == ("bad", 3)
    assert (error.function_name, error.pid, error.ip) == ("f", 7, "10.0.0.1")
    assert error.proctitle == "skate::f()"


def test_class_is_made_once_per_cause_class() -> None:
    assert type(got(ValueError("a"))) is type(got(ValueError("b")))


def test_attributes_are_those_of_the_cause() -> None:
    error = got(Coded("bad", 5))
    assert (error.code, error.doubled(), error.cause_of_death) == (5, 10, "none")
    with pytest.raises(AttributeError):
        _ = error.no_such_thing


def test_attributes_kept_in_c_are_those_of_the_cause() -> None:
    missing = got(FileNotFoundError(2, "No such file", "/nowhere"))
    assert isinstance(missing, FileNotFoundError)
    assert (missing.errno, missing.strerror, missing.filename) == (2, "No such file", "/nowhere")
    coding = got(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"))
    assert (coding.start, coding.object, coding.reason) == (0, b"\xff", "bad")
    slotted = Slotted("deep")
    slotted.depth = 4
    dual: Any = TaskError("f", "tb", slotted).as_instanceof_cause()
    assert (type(dual).__name__, dual.depth) == ("TaskError(Slotted)", 4)


@pytest.mark.parametrize(
    "cause",
    [
        KeyError("k"),
        Coded("bad", 5),
        Frozen(3),
        PicksNew(1, 2),
        OwnReduceEx("r"),
        WithMeta("m"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        OSError(5, "io"),
        WorkerCrashedError("died"),
        ActorDiedError("gone", "ab"),
        Group("g", [ValueError("in group")]),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_dual_errors_are_complete_and_pickle(cause: Exception) -> None:
    error = got(cause)
    copy: Any = pickle.loads(pickle.dumps(error))
    one: Any
    for one in (error, copy):
        assert type(one).__name__ == f"TaskError({type(cause).__name__})"
        assert isinstance(one, type(cause))
        assert type(one.cause) is type(cause)
        assert one.args == (one.cause,)
        assert one.pid == 7
        assert type(cause).__name__ in str(one)
        assert vars(one.cause) == vars(cause)
    assert str(copy) == str(error)


def test_error_with_a_cause_that_cannot_be_pickled_can() -> None:
    locked = Coded("holds a lock", 1)
    locked.lock = threading.Lock()  # type: ignore[attr-defined]
    dual = TaskError("f", "the traceback", locked, pid=7).as_instanceof_cause()
    copy = pickle.loads(pickle.dumps([dual]))[0]
    assert type(copy) is TaskError
    assert (copy.function_name, copy.pid) == ("f", 7)
    assert str(copy) == str(dual)
    assert isinstance(copy.cause, UnserializableException)


def test_notes_are_told_once() -> None:
    noted = ValueError("bad")
    noted.add_note("look here")
    error = got(noted)
    error.add_note("and there")
    assert str(error).count("look here") == 1
    assert error.__notes__ == ["and there"]
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["and there"]


def test_names_of_task_error_win_over_those_of_the_cause() -> None:
    error = got(TakesOurNames("x"))
    assert error.pid == 7
    assert isinstance(error.cause, TakesOurNames)
    assert isinstance(error, TakesOurNames)


@pytest.mark.parametrize(
    "cause",
    [
        KeyboardInterrupt(),
        SystemExit(3),
        GeneratorExit(),
        StopIteration(1),
        NoSubclass("n"),
        Exception("plain"),
        BaseExceptionGroup("g", [KeyboardInterrupt()]),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_plain_task_error_where_a_dual_one_cannot_or_must_not_be(cause: BaseException) -> None:
    error = got(cause)
    assert type(error) is TaskError
    assert type(error.cause) is type(cause)
    assert type(cause).__name__ in str(error)
    assert type(pickle.loads(pickle.dumps(error))) is TaskError


def test_groups_are_still_split_by_except_star() -> None:
    caught: list[str] = []
    with pytest.raises(ExceptionGroup) as rest:
        try:
            raise got(ExceptionGroup("many", [ValueError("v"), KeyError("k")]))
        except* ValueError as group:
            caught += [str(one) for one in group.exceptions]
    assert caught == ["v"]
    assert [type(one) for one in rest.value.exceptions] == [KeyError]


def test_made_by_hand() -> None:
    error = TaskError("f", "the traceback", ValueError("x"))
    assert type(error) is TaskError
    dual = error.as_instanceof_cause()
    assert isinstance(dual, ValueError)
    assert dual.as_instanceof_cause() is dual
    assert TaskError("f", "the traceback").args == ("the traceback",)


# --- causes that cannot travel --------------------------------------------------------------------


def test_constructor_that_cannot_be_called_again_is_no_obstacle() -> None:
    error = got(NeedsKeyword(reason="why"))
    assert isinstance(error, NeedsKeyword)
    assert error.reason == "why"


def test_unpicklable_cause_leaves_its_text() -> None:
    locked = Coded("holds a lock", 1)
    locked.lock = threading.Lock()  # type: ignore[attr-defined]
    record = failed(locked)
    assert record.pickled_cause == b""
    assert record.fields["unserializable"] is True
    error: Any = raise_form(record, pickle.loads)
    assert type(error) is TaskError
    assert "Coded: holds a lock" in str(error)
    assert isinstance(error.cause, UnserializableException)
    assert "holds a lock" in error.cause.original_stack_trace
    # ... also when another task lets it through
    again = got(error, name="outer")
    assert type(again) is TaskError
    assert "holds a lock" in str(again)
    assert isinstance(again.cause, UnserializableException)


def test_cause_that_does_not_load_here_leaves_its_text() -> None:
    def no_such_module(data: bytes) -> Any:
        raise ModuleNotFoundError("No module named 'theirs'")

    error: Any = raise_form(failed(ValueError("bad")), no_such_module)
    assert type(error) is TaskError
    assert "ValueError: bad" in str(error)
    assert "No module named 'theirs'" in str(error)
    assert type(raise_form(failed(ValueError("bad")), lambda data: "a str")) is TaskError


def test_class_defined_in_the_task_loads_in_another_process() -> None:
    module = types.ModuleType("__main__")
    source = "class Local(ValueError):\n    pass\n"
    exec(source, module.__dict__)
    record = failed(module.__dict__["Local"]("mine"))
    program = (
        "import pickle, sys; from skate.error_records import decode_error, raise_form\n"
        "error = raise_form(decode_error(sys.stdin.buffer.read()), pickle.loads)\n"
        "print(type(error).__name__, isinstance(error, ValueError))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=encode_error(record),
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.decode().split() == ["TaskError(Local)", "True"]


def test_text_that_is_not_unicode_can_be_sent() -> None:
    error = got(ValueError("file \udcff"), actor_repr="R\udcff")
    assert "file \\udcff" in str(error)
    assert isinstance(error, ValueError)
    chained = with_dependant(ErrorRecord("WorkerCrashedError", "x"), "g\udcff")
    assert decode_error(encode_error(chained)).chain == ["g\\udcff"]


# --- text -----------------------------------------------------------------------------------------


def test_text_says_where_it_ran() -> None:
    text = str(got(ValueError("bad"), name="Counter.add", actor_repr="<Counter 1>", actor_id="ab"))
    first = text.splitlines()[0]
    assert first == "skate::Counter.add() (pid=7, ip=10.0.0.1, actor_id=ab, repr=<Counter 1>)"
    assert text.splitlines()[-1] == "ValueError: bad"


def test_frames_of_skate_are_hidden() -> None:
    # Code whose file is inside the package, calling and called by code whose file is not.
    inside = errors.__file__.replace("errors.py", "worker/executor.py")
    source = "def run(function):\n    function()\n"
    namespace: dict[str, Any] = {}
    exec(compile(source, inside, "exec"), namespace)

    def users() -> None:
        try:
            raise KeyError("first")
        except KeyError as first:
            raise ValueError("second") from first

    with pytest.raises(ValueError, match="second") as caught:
        namespace["run"](users)
    text = record_task_error(caught.value, "f", pid=1).message
    assert "executor.py" not in text
    assert "in users" in text
    assert "KeyError: 'first'" in text
    assert "direct cause" in text

    with pytest.raises(TypeError) as only_ours:
        namespace["run"](lambda needed: None)
    only_ours.value.__traceback__ = only_ours.tb.tb_next  # less this function
    assert "executor.py" in record_task_error(only_ours.value, "f", pid=1).message


def test_nested_failures_show_both_tracebacks_and_the_first_cause() -> None:
    inner = got(ValueError("deep"), name="inner", pid=1)
    outer = got(inner, name="outer", pid=2)
    assert isinstance(outer, ValueError)
    assert type(outer).__name__ == "TaskError(ValueError)"
    assert type(outer.cause) is ValueError
    text = str(outer)
    assert text.index("skate::outer() (pid=2") < text.index("skate::inner() (pid=1")
    assert "ValueError: deep" in text


def test_text_names_who_depended_on_whom() -> None:
    record = with_dependant(with_dependant(failed(ValueError("bad")), "g"), "h")
    record = decode_error(encode_error(record))
    assert record.chain == ["g", "h"]
    lines = str(raise_form(record, pickle.loads)).splitlines()
    assert lines[-2].strip() == "g() did not run: it depends on f(), which failed"
    assert lines[-1].strip() == "h() did not run: it depends on g(), which failed"
    again = pickle.loads(pickle.dumps(raise_form(record, pickle.loads)))
    assert str(again).splitlines()[-1] == lines[-1]


def test_long_chains_keep_both_ends() -> None:
    record = failed(ValueError("bad"))
    for number in range(1000):
        record = with_dependant(record, f"task{number}")
    assert len(record.chain) == CHAIN_NAMES
    assert record.chain[0] == "task0"
    assert record.chain[-2:] == ["task998", "task999"]
    text = str(raise_form(record, pickle.loads))
    assert "task999() did not run" in text
    assert "..." in text


# --- errors that daemons make ---------------------------------------------------------------------


def test_record_becomes_its_class_with_fields_and_chain() -> None:
    record = ErrorRecord(
        "WorkerCrashedError", "killed by SIGSEGV", {"pid": 9, "function_name": "f"}, chain=["g"]
    )
    error: Any = raise_form(decode_error(encode_error(record)), pickle.loads)
    assert type(error) is WorkerCrashedError
    assert error.pid == 9
    assert str(error).startswith("killed by SIGSEGV\n")
    assert "g() did not run: it depends on f()" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_text_is_found_under_the_promised_name() -> None:
    for kind, name in [
        ("ActorDiedError", "error_msg"),
        ("TaskCancelledError", "error_message"),
        ("OutOfMemoryError", "message"),
        ("NodeDiedError", "message"),
        ("TaskUnschedulableError", "error_message"),
    ]:
        error = raise_form(ErrorRecord(kind, "the text"), pickle.loads)
        assert getattr(error, name) == "the text" == str(error)


def test_failed_constructor_comes_with_its_cause() -> None:
    cause = cloudpickle.dumps(ValueError("in __init__"))
    fields = {"actor_id": "ab", "actor_init_failed": True}
    record = ErrorRecord("ActorDiedError", "text", fields, cause)
    error: Any = raise_form(record, pickle.loads)
    assert isinstance(error, ActorError)
    assert (error.actor_id, error.actor_init_failed) == ("ab", True)
    assert isinstance(error.__cause__, ValueError)
    bad: Any = raise_form(msgspec.structs.replace(record, pickled_cause=b"junk"), pickle.loads)
    assert type(bad) is ActorDiedError
    assert "could not be loaded" in str(bad)


@pytest.mark.parametrize("kind", sorted(cls.__name__ for cls in CLASSES))
def test_every_kind_can_be_raised(kind: str) -> None:
    error = raise_form(ErrorRecord(kind, "the text"), pickle.loads)
    assert type(error).__name__ == kind
    assert "the text" in str(error)


@pytest.mark.parametrize("kind", ["FutureError", "ErrorRecord", "KeyboardInterrupt", ""])
def test_unknown_kind_is_a_system_failure(kind: str) -> None:
    error = raise_form(ErrorRecord(kind, "the text"), pickle.loads)
    assert type(error) is SystemFailureError
    assert "the text" in str(error)


def test_record_of_a_newer_peer_is_understood() -> None:
    newer = msgspec.msgpack.encode(["TaskError", "text", {"new": [1]}, b"", [], "later field"])
    assert decode_error(newer).fields == {"new": [1]}
    assert isinstance(raise_form(decode_error(newer), pickle.loads), TaskError)


def test_bytes_that_are_no_record_are_refused() -> None:
    for data in (b"", b"\xc1", msgspec.msgpack.encode({"kind": 3})):
        with pytest.raises(msgspec.DecodeError):
            decode_error(data)
