"""This machine's addresses on the network, and the processes on its ports.

Called by the modules that start a node or look for one (launching, joining, symmetric runs). An
address is HOST:PORT, with an IPv6 host in brackets. This module sends bytes to name servers only.
Errors: OSError with a sentence for refusals of the network.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

from skate.net.dialing import split_address

_SOMEWHERE = ("192.0.2.1", 9)  # an address for documentation: the default route leads there
_LISTENING = "0A"  # a state in /proc/net/tcp


def join_address(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolve(host: str) -> list[str]:
    """The IP addresses of a host, the preferred one first; OSError if it has none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise OSError(f"the host name {host!r} cannot be resolved: {error}") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_same(one: str, other: str) -> bool:
    """Whether two addresses lead to the same port of the same machine, whatever their names."""
    if one == other:
        return True
    try:
        (host, port), (other_host, other_port) = split_address(one), split_address(other)
        if port != other_port:
            return False
        ips = set(resolve(host)), set(resolve(other_host))
    except (OSError, ValueError):
        return False
    return bool(ips[0] & ips[1]) or all(any(is_own(ip) for ip in some) for some in ips)


def is_own(ip: str) -> bool:
    """Whether an IP address is one of this machine's."""
    with socket.socket(_family(ip), socket.SOCK_STREAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return ip not in ("0.0.0.0", "::")


def is_loopback(ip: str) -> bool:
    """Whether an IP address leads to this machine only."""
    return ip.startswith("127.") or ip == "::1"


def default_ip() -> str:
    """The IP address of the interface of the default route; 127.0.0.1 if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_SOMEWHERE)  # of a datagram socket: looks for a route, sends nothing
            found = str(probe.getsockname()[0])
        except OSError:
            found = "127.0.0.1"
    if not is_loopback(found) and found != "0.0.0.0":
        return found
    try:  # no default route; the host's own name may still lead to an interface
        named = [ip for ip in resolve(socket.gethostname()) if not is_loopback(ip) and is_own(ip)]
    except OSError:
        named = []
    return named[0] if named else "127.0.0.1"


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; "" is all interfaces, port 0 any free one. OSError with a reason."""
    address = host or "0.0.0.0"
    sock = socket.socket(_family(address), socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, _not_bound(address, port, error)) from None
    return sock


def _not_bound(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken by {owner_of(port)}. Choose another --port (0: any free one)"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine, whose default one is {default_ip()}"
    if error.errno == errno.EACCES:
        return f"port {port} is for root alone; choose one from 1024 up (0: any free one)"
    return f"{host}, port {port}: {error.strerror}"


def owner_of(port: int) -> str:
    """The listener on a port of this machine, in words: "redis-server (pid 17)"."""
    for inode, uid in _listeners(port):
        pid = _holder(inode)
        if pid:
            return f"{_command(pid)} (pid {pid})"
        if uid != os.getuid():
            return f"a process of user {uid}"
    return "another process"


def _listeners(port: int) -> Iterator[tuple[str, int]]:
    """(inode, user) of the sockets that listen on a port."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as file:
                rows = [line.split() for line in file.readlines()[1:]]
        except OSError:
            continue
        for row in rows:
            if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port:
                yield row[9], int(row[7])


def _holder(inode: str) -> int:
    """The process that has a socket open; 0 if this user may not see it."""
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            for fd in os.listdir(f"/proc/{entry}/fd"):
                if os.readlink(f"/proc/{entry}/fd/{fd}") == f"socket:[{inode}]":
                    return int(entry)
        except OSError:
            continue  # the process has ended, or is another user's
    return 0


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return "a process"


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET
