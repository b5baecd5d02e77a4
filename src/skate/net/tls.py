"""TLS between the machines of a cluster: contexts for both sides, and sentences about failures.

Optional: without it a connection is authenticated by the cluster token, but neither encrypted nor
protected after its handshake. Every node, and each driver that connects from afar, has a
certificate signed by the cluster's own authority; each side verifies the other's. Names in
certificates are not compared: nodes are known by addresses that come and go, and a machine with a
certificate of this authority, and the token, is a member. So the authority must sign for members
only. TLS 1.3 only: both sides are skate.

Called by the commands with the options ``--tls-cert``, ``--tls-key`` and ``--tls-ca``.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass

OPTIONS = "--tls-cert, --tls-key and --tls-ca"


@dataclass(frozen=True, eq=False)
class Tls:
    """The contexts of one process; they may be used by several threads."""

    accepting: ssl.SSLContext
    dialling: ssl.SSLContext


def load_tls(cert: str | None, key: str | None, ca: str | None) -> Tls | None:
    """From three PEM files; None if none is given. ValueError, naming the file, if one is wrong."""
    given = {"--tls-cert": cert, "--tls-key": key, "--tls-ca": ca}
    if not any(given.values()):
        return None
    if not cert or not key or not ca:
        missing = " and ".join(name for name, value in given.items() if not value)
        raise ValueError(f"TLS needs all of {OPTIONS}; missing: {missing}")
    for name, path in given.items():
        try:
            with open(os.fspath(path or ""), "rb"):
                pass
        except OSError as error:
            raise ValueError(f"{name} {path} cannot be read: {error.strerror}") from None
    return Tls(_context(True, cert, key, ca), _context(False, cert, key, ca))


def _context(accepts: bool, cert: str, key: str, ca: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if accepts else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    if accepts:
        context.num_tickets = 0  # no client resumes, and tickets would be unasked-for bytes
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(
            f"--tls-cert {cert} and --tls-key {key} are not a certificate and its unencrypted "
            f"key, in PEM: {_reason(error)}"
        ) from None
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise ValueError(f"--tls-ca {ca} is not a certificate in PEM: {_reason(error)}") from None
    return context


def _no_password() -> str:
    """No password: OpenSSL would ask for one on the terminal."""
    raise ValueError("it is encrypted")


def failure(address: str, error: Exception) -> str:
    """The reason why TLS with this address failed, for the side that connected."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the TLS certificate of {address} was not signed by this cluster's authority "
            f"({error.verify_message}): check --tls-ca on both sides"
        )
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        return (
            f"{address} did not accept this side's TLS certificate ({_reason(error)}): --tls-cert "
            "must be signed by the authority that is --tls-ca there"
        )
    return f"TLS with {address} failed: {_reason(error)}"


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return str(error) or type(error).__name__
