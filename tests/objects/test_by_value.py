"""Functions that travel by value keep what an error about them needs."""

from __future__ import annotations

import pickle

from skate.objects import by_value


def test_code_keeps_its_file_and_lines_in_nested_functions_too() -> None:
    base = 10

    def outer(x: int) -> int:
        def inner(y: int) -> int:
            return y + base

        return inner(x)

    copied = pickle.loads(by_value.dumps(outer))
    assert copied(1) == 11
    codes = [copied.__code__, *(c for c in copied.__code__.co_consts if hasattr(c, "co_filename"))]
    assert [code.co_name for code in codes] == ["outer", "inner"]
    assert {code.co_filename for code in codes} == {__file__}
    assert copied.__code__.co_firstlineno == outer.__code__.co_firstlineno


def test_methods_of_a_class_keep_their_file() -> None:
    class Local:
        def method(self) -> int:
            return 1

    copied = pickle.loads(by_value.dumps(Local))
    assert copied().method() == 1
    assert copied.method.__code__.co_filename == __file__
