"""How an agent reaches its control plane, as its settings say. Read by settings.py, with names and paths."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from exeat.core.problems import Problems, shown
from exeat.core.yaml_fields import Fields, read_list, read_parsed, read_text

_PLANE = ("endpoints", "ca", "certificate", "key", "public_key", "server_name")
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.IGNORECASE)
_HOST_MAX = 253  # RFC 1035 2.3.4
_ENDPOINT = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^\[\]:/\s]+)):(?P<port>[0-9]{1,5})")
_ENDPOINTS_MAX = 16


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a control plane listens for agents."""

    host: str  # a name or an address
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class PlaneAccess:
    """How the agent reaches its control plane."""

    endpoints: tuple[Endpoint, ...]  # tried in turn
    ca: Path  # who vouches for the plane
    certificate: Path  # this node's own
    key: Path
    public_key: Path | None = None  # who signs manifests and commands; None: they may be unsigned
    server_name: str = ""  # that the plane's certificate must have; empty: the endpoint's host


def read_plane(spec: Fields, problems: Problems) -> PlaneAccess | None:
    """The field `plane`."""
    plane = spec.mapping(spec.get("plane"), "`plane`", _PLANE)
    if plane is None:
        return None
    ca = _required_path(plane, problems, "ca", "the file of the authority that vouches for the plane")
    certificate = _required_path(plane, problems, "certificate", "the file of this node's certificate")
    key = _required_path(plane, problems, "key", "the file of this node's key")
    public_key = read_path(plane, "public_key", Path(), problems) if "public_key" in plane else None
    return PlaneAccess(
        _endpoints(plane, problems), ca, certificate, key, public_key, read_host(plane, "server_name", problems)
    )


def read_host(fields: Fields, name: str, problems: Problems) -> str:
    """A machine's name; empty where there is none."""
    node = fields.get(name)
    text = read_text(node, f"`{name}`", problems, _HOST_MAX)
    if node is not None and text is not None and not _HOST.fullmatch(text):
        problems.add(node.line, f"`{name}` is {shown(text)}: write a name as in `node-1.example.com`")
    return text or ""


def read_path(fields: Fields, name: str, default: Path, problems: Problems) -> Path:
    """A whole path; the default where there is none."""
    node = fields.get(name)
    text = read_text(node, f"`{name}`", problems)
    if text is None or node is None:
        return default
    if why := why_no_path(text, "/var/lib/exeat"):
        problems.add(node.line, f"`{name}` is {shown(text)}: {why}")
    return Path(text)


def why_no_path(text: str, home: str) -> str | None:
    """What is wrong with a path in settings, if anything is. `home`: where such a file is usually."""
    if not text.startswith("/"):
        return f"write the whole path, as in `{home}/{shown(text)[1:-1]}`"
    if ".." in text.split("/"):
        return "write the path without `..`"
    if not text.strip("/"):
        return "the root directory belongs to everybody: write a directory of exeat's own"
    return None


def _endpoints(plane: Fields, problems: Problems) -> tuple[Endpoint, ...]:
    example = "where the plane listens, as in `[plane.example.com:9470]`"
    nodes = read_list(plane.required("endpoints", example), "`endpoints`", problems)
    if len(nodes) > _ENDPOINTS_MAX:
        text = f"`endpoints` has {len(nodes)} entries: write at most {_ENDPOINTS_MAX}"
        problems.add(nodes[_ENDPOINTS_MAX].line, text)
    read = [read_parsed(node, "an entry of `endpoints`", _parse_endpoint, problems) for node in nodes]
    return tuple(dict.fromkeys(one for one in read if one))


def _required_path(fields: Fields, problems: Problems, name: str, example: str) -> Path:
    fields.required(name, example)
    return read_path(fields, name, Path(), problems)


def _parse_endpoint(text: str) -> Endpoint:
    match = _ENDPOINT.fullmatch(text)
    host = (match["v6"] or match["host"]) if match else ""
    if not match or not 0 < int(match["port"]) <= 65535 or not _is_host(host, is_v6=bool(match["v6"])):
        raise ValueError(
            f"{shown(text)} is no endpoint: write a name or an address, and a port, as in "
            "`plane.example.com:9470` or `[2001:db8::1]:9470`"
        )
    return Endpoint(host, int(match["port"]))


def _is_host(text: str, *, is_v6: bool) -> bool:
    try:
        return (ip_address(text).version == 6) == is_v6
    except ValueError:
        is_numbers = re.fullmatch(r"[0-9.]+", text)  # an address that is none
        return not is_v6 and not is_numbers and len(text) <= _HOST_MAX and bool(_HOST.fullmatch(text))
