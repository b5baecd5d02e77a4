"""Ctrl-C at every point where the interpreter looks for one, while calls go by lanes: the program
goes on, and every later result is right."""

from __future__ import annotations

import pytest

from tests.conftest import RunProgram

PROGRAM = """
    import dis, os, sys
    import skate

    skate.init(num_cpus=2)

    @skate.remote
    def echo(value):
        return value

    @skate.remote
    class Log:
        def __init__(self):
            self.numbers = []
        def add(self, number, *rest):
            self.numbers.append(number)
            return number
        def all(self):
            return self.numbers

    # Signals are seen behind a call of something written in C, where a function of Python begins,
    # and where a loop turns.
    NAMES = ("CALL", "CALL_KW", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD")
    SEEN_BEHIND = {dis.opmap[name] for name in NAMES if name in dis.opmap}

    def interrupted(body, at):
        "Run it, with Ctrl-C at that point; whether it has so many."
        points, last, returned, reached = 0, {}, False, False

        def inside(frame, event, _):
            nonlocal points, returned, reached
            if event == "return":
                returned = True
                last.pop(frame, None)
            elif event == "opcode":
                before = last.get(frame)
                last[frame] = frame.f_code.co_code[frame.f_lasti]
                from_python, returned = returned, False
                if before in SEEN_BEHIND and not from_python:
                    points += 1
                    if points == at:
                        sys.settrace(None)
                        reached = True
                        raise KeyboardInterrupt
            return inside

        def begins(frame, event, _):
            name = frame.f_code.co_filename
            if "/skate/" not in name or frame.f_code.co_name == "__del__":
                return None  # what is raised in a destructor is printed, and that is all
            frame.f_trace_opcodes = True
            return inside

        sys.settrace(begins)
        try:
            body()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        return reached

    def warm(log):
        for _ in range(4):
            skate.get([log.add.remote(-1), echo.remote(-1)], timeout=20)
        skate.get([echo.remote(-1) for _ in range(20)], timeout=20)

    log, at = Log.remote(), 0
    while True:
        at += 1
        refs = []
        WARM
        if not interrupted(lambda: BODY, at):
            break
        later = [log.add.remote(at), echo.remote(at)]
        assert skate.get(later, timeout=5) == [at, at], at
        assert skate.get(refs, timeout=5) == [at] * len(refs), at
    numbers = [number for number in skate.get(log.all.remote()) if number > 0]
    assert numbers == sorted(numbers), numbers
    print("points", at)
"""

BODIES = {
    "a call": ("warm(log)", "refs.append(log.add.remote(at))"),
    "a call by the switch": ("warm(log)", "refs.append(log.add.remote(at, [echo.remote(0)]))"),
    "a task": ("warm(log)", "refs.append(echo.remote(at))"),
    "get": (
        "warm(log); refs += [echo.remote(at), log.add.remote(at)]",
        "skate.get(refs, timeout=5)",
    ),
    "a ref that leaves": ("warm(log)", "refs.append(echo.remote(echo.remote(at)))"),
    "a lane that opens": (
        "log = Log.remote(); skate.get([log.add.remote(0), log.add.remote(0)], timeout=20)",
        "[skate.get(log.add.remote(0), timeout=5) for _ in range(2)]",
    ),
}


@pytest.mark.parametrize("what", BODIES)
def test_an_interrupt_at_every_point_of(what: str, run_program: RunProgram) -> None:
    """A number that is given and never sent, or a reader that never stops, makes a get hang."""
    before, body = BODIES[what]
    source = PROGRAM.replace("WARM", before).replace("BODY", body)
    done = run_program(source, environ={"PYTHONUNBUFFERED": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[1]) > 15
