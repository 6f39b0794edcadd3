"""The files by which agent and plane know each other: read anew for each connection, and checked before they are used.

gRPC says nothing useful about a file that it cannot read, so that ssl is asked first.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

from exeat.errors import ExeatError
from exeat.plane_access import PlaneAccess

FILE_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the files held."""

    ca: bytes
    certificate: bytes
    key: bytes
    seen: tuple[tuple[int, ...], ...]  # the files' states


def read_credentials(access: PlaneAccess) -> Credentials:
    """Reads and checks the three files. Raises ExeatError with a sentence about the one that will not do."""
    seen = state_of(access)
    ca, certificate, key = (_read(path) for path in (access.ca, access.certificate, access.key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=ca.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError) as error:
        raise ExeatError(f"{access.ca}: there is no certificate in PEM in it: put the authority's there") from error
    try:
        context.load_cert_chain(access.certificate, access.key, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise ExeatError(f"{access.certificate} and {access.key} {_why_no_pair(error)}") from error
    return Credentials(ca, certificate, key, seen)


def state_of(access: PlaneAccess) -> tuple[tuple[int, ...], ...]:
    """Differs when one of the files does. One that is not there has no state."""
    return tuple(_state(path) for path in (access.ca, access.certificate, access.key))


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAX + 1)
    except OSError as error:
        raise ExeatError(f"{path}: {error.strerror}: put it there, or name the right file in the settings") from error
    if len(content) > FILE_MAX:
        raise ExeatError(f"{path}: it has more than {FILE_MAX} bytes, which no certificate has: name the right file")
    return content


def _why_no_pair(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        return "do not belong together: put the key there for which the certificate was made"
    return f"are no certificate and key in PEM, without a password ({reason or error}): put a pair of them there"
