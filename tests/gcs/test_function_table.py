"""Functions never change; the key-value store keeps namespaces apart."""

from __future__ import annotations

from skate.gcs.function_table import (
    FUNCTION_BYTES_KEPT,
    FUNCTIONS_KEPT,
    FunctionTable,
    KeyValueStore,
)


def test_a_function_once_stored_never_changes() -> None:
    table = FunctionTable()
    assert table.store(b"hash", "f", b"code")
    assert not table.store(b"hash", "g", b"other code")
    assert (table.data(b"hash"), table.data(b"else")) == (b"code", None)


def test_the_functions_of_jobs_long_over_go() -> None:
    table = FunctionTable()
    for number in range(FUNCTIONS_KEPT + 5):
        assert table.store(b"%d" % number, "f", b"code")
    assert len(table.functions) == FUNCTIONS_KEPT
    assert (table.data(b"4"), table.data(b"5")) == (None, b"code")
    large = bytes(FUNCTION_BYTES_KEPT // 2)
    for number in range(3):
        assert table.store(b"large %d" % number, "f", large)
    assert list(table.functions) == [b"large 1", b"large 2"]
    assert table.store(b"huge", "f", bytes(FUNCTION_BYTES_KEPT + 1))
    assert list(table.functions) == [b"huge"]
    assert table.store(b"small", "f", b"code")
    assert list(table.functions) == [b"small"]
    table.functions.check()


def test_keys_of_two_namespaces_never_meet() -> None:
    store = KeyValueStore()
    assert [store.put("a", b"k", b"1"), store.put("b", b"k", b"2")] == [True, True]
    assert (store.get("a", b"k"), store.get("b", b"k"), store.get("c", b"k")) == (b"1", b"2", None)
    assert store.delete("a", b"k") == 1
    assert (store.get("a", b"k"), store.get("b", b"k"), len(store)) == (None, b"2", 1)


def test_without_overwrite_the_first_value_stays() -> None:
    store = KeyValueStore()
    assert store.put("", b"k", b"1", overwrite=False)
    assert not store.put("", b"k", b"2", overwrite=False)
    assert store.get("", b"k") == b"1"
    assert not store.put("", b"k", b"3")
    assert store.get("", b"k") == b"3"


def test_by_prefix_only_what_begins_with_it_is_listed_and_deleted() -> None:
    store = KeyValueStore()
    for key in (b"b:1", b"a:2", b"a:1"):
        store.put("", key, b"")
    assert store.keys("", b"a:") == [b"a:1", b"a:2"]
    assert store.delete("", b"a:") == 0
    assert store.delete("", b"a:", by_prefix=True) == 2
    assert store.delete("", b"a:", by_prefix=True) == 0
    assert store.keys("") == [b"b:1"]
