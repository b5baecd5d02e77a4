"""What this machine is called, which addresses are the same, and who has a port."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from skate.launch import addresses


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with addresses.listen("127.0.0.1", 0) as sock:
        yield sock


def test_the_default_address_is_one_of_this_machines() -> None:
    ip = addresses.default_ip()
    assert addresses.is_own(ip)
    assert addresses.is_own("127.0.0.1") and addresses.is_own("127.0.0.53")
    assert not addresses.is_own("203.0.113.9")
    assert not addresses.is_own("0.0.0.0"), "that is all of them, and none"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.5:6379", "10.0.0.5:6379", True),
        ("10.0.0.5:6379", "10.0.0.5:6380", False),
        ("10.0.0.5:6379", "10.0.0.6:6379", False),
        ("localhost:6379", "127.0.0.1:6379", True),
        ("localhost:6379", "{own}:6379", True),
        ("localhost:6379", "203.0.113.9:6379", False),
        ("203.0.113.9:6379", "no.such.host.invalid:6379", False),
        ("anything", "anything", True),
        ("anything", "else", False),
    ],
)
def test_addresses_that_lead_to_the_same_place(one: str, other: str, same: bool) -> None:
    other = other.format(own=addresses.default_ip())
    assert addresses.is_same(one, other) is addresses.is_same(other, one) is same


def test_an_address_with_colons_is_put_in_brackets() -> None:
    assert addresses.join_address("10.0.0.5", 1) == "10.0.0.5:1"
    assert addresses.join_address("fd00::7", 1) == "[fd00::7]:1"


def test_a_host_without_an_address_is_named() -> None:
    for host in ("no.such.host.invalid", "a" * 100):
        with pytest.raises(OSError, match=host):
            addresses.resolve(host)


def test_who_has_a_port_is_told(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert addresses.owner_of(port).endswith(f"(pid {os.getpid()})")
    with pytest.raises(OSError, match=f"port {port} is taken by .*pid {os.getpid()}") as told:
        addresses.listen("", port)
    assert told.value.errno == errno.EADDRINUSE


def test_a_port_is_free_again_at_once(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as client:
        server, _ = listener.accept()
        server.close()  # first: its side waits, as the kernel has it, for a minute
        client.recv(1)
    listener.close()
    addresses.listen("127.0.0.1", port).close()


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(OSError, match=r"203\.0\.113\.9 is no address of this machine"):
        addresses.listen("203.0.113.9", 0)
