"""The agent's own settings: /etc/exeat/exeat.yaml, read as strictly as a policy. What is left out has its default.

Pure: whether a directory or a group exists, the agent finds out when it starts.
"""

import re
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from exeat.core.policy_limits import parse_size
from exeat.core.problems import Problems, shown
from exeat.core.yaml_fields import Fields, read_integer, read_list, read_parsed, read_text
from exeat.core.yaml_nodes import Mapping, Scalar, compose
from exeat.interface_settings import InterfaceSettings, read_interfaces
from exeat.model.networks import Address

DEFAULT_FILE = Path("/etc/exeat/exeat.yaml")
_API_VERSION = "exeat.dev/v1"
_KIND = "AgentSettings"
_SPEC = ("policies", "state", "runtime", "log", "api", "metrics", "interfaces", "node", "plane")
_EMPTY = re.compile(r"\s*(#.*\s*|---\s*|\.\.\.\s*)*")
_GROUP = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.IGNORECASE)  # useradd(8)
_LISTEN = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<v4>[0-9.]+)):(?P<port>[0-9]{1,5})")
_PLANE = ("endpoints", "ca", "certificate", "key", "public_key", "server_name")
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.IGNORECASE)
_HOST_MAX = 253  # RFC 1035 2.3.4
_ENDPOINT = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^\[\]:/\s]+)):(?P<port>[0-9]{1,5})")
_ENDPOINTS_MAX = 16
_SOCKET_PATH_MAX = 107  # sun_path of sys/un.h, less the NUL
_MAX_BYTES = (1 << 20, 1 << 40)
_KEEP = (1, 1000)


@dataclass(frozen=True, slots=True)
class Listen:
    """Where metrics and health are served."""

    address: Address
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The verdict log."""

    directory: Path = Path("/var/log/exeat")
    max_bytes: int = 64 << 20  # of one file; then the next one begins
    keep: int = 8  # files beside the current one
    key: Path = Path("/var/lib/exeat/audit.key")  # signs checkpoints; made at the first start


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Who this host is in its fleet."""

    name: str = field(default_factory=socket.gethostname)
    labels: tuple[tuple[str, str], ...] = ()  # a policy's `subject.nodes` is compared with them


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


@dataclass(frozen=True, slots=True)
class Settings:
    """All that an agent is told about its host."""

    policies: Path = Path("/etc/exeat/policies.d")
    state: Path = Path("/var/lib/exeat")
    runtime: Path = Path("/run/exeat")
    log: LogSettings = field(default_factory=LogSettings)
    socket: Path = Path("/run/exeat/agent.sock")
    group: str = "exeat"
    metrics: Listen | None = Listen(ip_address("127.0.0.1"), 9469)  # None: off
    interfaces: InterfaceSettings = field(default_factory=InterfaceSettings)
    node: NodeSettings = field(default_factory=NodeSettings)
    plane: PlaneAccess | None = None  # None: there is none, files alone say what holds


_DEFAULT = Settings()


def read_settings(text: str, filename: str) -> Settings:
    """Read settings. Raises PolicyError with every problem of the document as `file:line: what, what instead`."""
    problems = Problems(filename)
    begin = f"begin with `apiVersion: {_API_VERSION}` and `kind: {_KIND}`"
    if _EMPTY.fullmatch(text):
        raise problems.failure(1, f"there are no settings in here: {begin}")
    root = compose(text, problems)
    if not isinstance(root, Mapping):
        raise problems.failure(root.line, f"these are no settings: {begin}")
    settings = _Reader(problems).read(Fields(root, "the file", ("apiVersion", "kind", "spec"), problems))
    problems.raise_if_any()
    return settings


@dataclass(frozen=True, slots=True)
class _Reader:
    problems: Problems

    def read(self, document: Fields) -> Settings:
        document.constant("apiVersion", _API_VERSION)
        document.constant("kind", _KIND)
        spec = document.mapping(document.get("spec"), "`spec`", _SPEC)
        if spec is None:
            return _DEFAULT
        state = self._path(spec, "state", _DEFAULT.state)
        runtime = self._path(spec, "runtime", _DEFAULT.runtime)
        api = spec.mapping(spec.get("api"), "`api`", ("socket", "group"))
        return Settings(
            policies=self._path(spec, "policies", _DEFAULT.policies),
            state=state,
            runtime=runtime,
            log=self._log(spec, state),
            socket=self._socket(api, runtime),
            group=self._group(api),
            metrics=self._metrics(spec),
            interfaces=read_interfaces(spec, self.problems),
            node=self._node(spec),
            plane=self._plane(spec),
        )

    def _log(self, spec: Fields, state: Path) -> LogSettings:
        default = LogSettings(key=state / "audit.key")
        log = spec.mapping(spec.get("log"), "`log`", ("directory", "max_bytes", "keep", "key"))
        if log is None:
            return default
        keep = read_integer(log.get("keep"), "`keep`", self.problems, *_KEEP)
        max_bytes = read_parsed(log.get("max_bytes"), "`max_bytes`", _parse_size, self.problems)
        return LogSettings(
            directory=self._path(log, "directory", default.directory),
            max_bytes=default.max_bytes if max_bytes is None else max_bytes,
            keep=default.keep if keep is None else keep,
            key=self._path(log, "key", default.key),
        )

    def _socket(self, api: Fields | None, runtime: Path) -> Path:
        default = runtime / "agent.sock"
        path = default if api is None else self._path(api, "socket", default)
        size = len(str(path).encode())
        if api is not None and size > _SOCKET_PATH_MAX:
            self.problems.add(
                api.line_of("socket"),
                f"`socket` has {size} bytes, of which the kernel takes {_SOCKET_PATH_MAX}: shorten it",
            )
        return path

    def _group(self, api: Fields | None) -> str:
        node = api.get("group") if api else None
        group = read_text(node, "`group`", self.problems)
        if node is not None and group is not None and not _GROUP.fullmatch(group):
            self.problems.add(node.line, f"{shown(group)} is no group's name: write one as /etc/group has it")
        return group or _DEFAULT.group

    def _metrics(self, spec: Fields) -> Listen | None:
        metrics = spec.mapping(spec.get("metrics"), "`metrics`", ("listen",))
        node = metrics.required("listen", "where to listen, as in `127.0.0.1:9469`, or `off`") if metrics else None
        if isinstance(node, Scalar) and node.text == "off":  # false to old YAML, text to new: they mean the same
            return None
        return read_parsed(node, "`listen`", _parse_listen, self.problems) or _DEFAULT.metrics

    def _node(self, spec: Fields) -> NodeSettings:
        node = spec.mapping(spec.get("node"), "`node`", ("name", "labels"))
        if node is None:
            return NodeSettings()
        name = self._host(node, "name")
        return NodeSettings(name, self._labels(node)) if name else NodeSettings(labels=self._labels(node))

    def _labels(self, node: Fields) -> tuple[tuple[str, str], ...]:
        labels = node.get("labels")
        if not isinstance(labels, Mapping):
            if labels is not None:
                self.problems.add(labels.line, "`labels` is no mapping: write `labels: {label: value}`")
            return ()
        read = []
        for name, entry in labels.fields.items():
            key = read_text(entry.key, "a label's name", self.problems, 63)
            value = read_text(entry.node, f"the label {shown(name)}", self.problems, 253)
            if key is not None and value is not None:
                read.append((key, value))
        return tuple(read)

    def _plane(self, spec: Fields) -> PlaneAccess | None:
        plane = spec.mapping(spec.get("plane"), "`plane`", _PLANE)
        if plane is None:
            return None
        ca = self._required_path(plane, "ca", "the file of the authority that vouches for the plane")
        certificate = self._required_path(plane, "certificate", "the file of this node's certificate")
        key = self._required_path(plane, "key", "the file of this node's key")
        public_key = self._path(plane, "public_key", Path()) if "public_key" in plane else None
        return PlaneAccess(self._endpoints(plane), ca, certificate, key, public_key, self._host(plane, "server_name"))

    def _endpoints(self, plane: Fields) -> tuple[Endpoint, ...]:
        example = "where the plane listens, as in `[plane.example.com:9470]`"
        nodes = read_list(plane.required("endpoints", example), "`endpoints`", self.problems)
        if len(nodes) > _ENDPOINTS_MAX:
            text = f"`endpoints` has {len(nodes)} entries: write at most {_ENDPOINTS_MAX}"
            self.problems.add(nodes[_ENDPOINTS_MAX].line, text)
        read = [read_parsed(node, "an entry of `endpoints`", _parse_endpoint, self.problems) for node in nodes]
        return tuple(dict.fromkeys(one for one in read if one))

    def _host(self, fields: Fields, name: str) -> str:
        node = fields.get(name)
        text = read_text(node, f"`{name}`", self.problems, _HOST_MAX)
        if node is not None and text is not None and not _HOST.fullmatch(text):
            self.problems.add(node.line, f"`{name}` is {shown(text)}: write a name as in `node-1.example.com`")
        return text or ""

    def _required_path(self, fields: Fields, name: str, example: str) -> Path:
        fields.required(name, example)
        return self._path(fields, name, Path())

    def _path(self, fields: Fields, name: str, default: Path) -> Path:
        node = fields.get(name)
        text = read_text(node, f"`{name}`", self.problems)
        if text is None or node is None:
            return default
        if why := why_no_path(text, "/var/lib/exeat"):
            self.problems.add(node.line, f"`{name}` is {shown(text)}: {why}")
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


def parse_listen(text: str, examples: str) -> Listen:
    """An address and a port. Raises ValueError with a sentence."""
    match = _LISTEN.fullmatch(text)
    if match and 0 < int(match["port"]) <= 65535:
        with suppress(ValueError):  # told below
            return Listen(ip_address(match["v6"] or match["v4"]), int(match["port"]))
    raise ValueError(f"{shown(text)} is no place to listen: write {examples}")


def _parse_listen(text: str) -> Listen:
    return parse_listen(text, "`127.0.0.1:9469`, `[::1]:9469` or `off`")


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


def _parse_size(text: str) -> int:
    size = 0 if text.startswith("0") else parse_size(text)
    if not _MAX_BYTES[0] <= size <= _MAX_BYTES[1]:
        raise ValueError(f"{shown(text)} is too small or too great for one file: write a size from `1Mi` to `1024Gi`")
    return size
