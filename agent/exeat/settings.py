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
from exeat.core.yaml_fields import Fields, read_integer, read_parsed, read_text
from exeat.core.yaml_nodes import Mapping, Scalar, compose
from exeat.interface_settings import InterfaceSettings, read_interfaces
from exeat.model.networks import Address
from exeat.plane_access import PlaneAccess, read_host, read_path, read_plane
from exeat.runtime_settings import RuntimeSettings, read_runtimes
from exeat.session_settings import SessionSettings, read_sessions

DEFAULT_FILE = Path("/etc/exeat/exeat.yaml")
_API_VERSION = "exeat.dev/v1"
_KIND = "AgentSettings"
_SPEC = ("policies", "state", "runtime", "log", "api", "metrics", "interfaces", "runtimes", "sessions", "node", "plane")
_EMPTY = re.compile(r"\s*(#.*\s*|---\s*|\.\.\.\s*)*")
_GROUP = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.IGNORECASE)  # useradd(8)
_LISTEN = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<v4>[0-9.]+)):(?P<port>[0-9]{1,5})")
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
    runtimes: RuntimeSettings = field(default_factory=RuntimeSettings)
    sessions: SessionSettings = field(default_factory=SessionSettings)
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
        state = read_path(spec, "state", _DEFAULT.state, self.problems)
        runtime = read_path(spec, "runtime", _DEFAULT.runtime, self.problems)
        api = spec.mapping(spec.get("api"), "`api`", ("socket", "group"))
        return Settings(
            policies=read_path(spec, "policies", _DEFAULT.policies, self.problems),
            state=state,
            runtime=runtime,
            log=self._log(spec, state),
            socket=self._socket(api, runtime),
            group=self._group(api),
            metrics=self._metrics(spec),
            interfaces=read_interfaces(spec, self.problems),
            runtimes=read_runtimes(spec, self.problems),
            sessions=read_sessions(spec, self.problems),
            node=self._node(spec),
            plane=read_plane(spec, self.problems),
        )

    def _log(self, spec: Fields, state: Path) -> LogSettings:
        default = LogSettings(key=state / "audit.key")
        log = spec.mapping(spec.get("log"), "`log`", ("directory", "max_bytes", "keep", "key"))
        if log is None:
            return default
        keep = read_integer(log.get("keep"), "`keep`", self.problems, *_KEEP)
        max_bytes = read_parsed(log.get("max_bytes"), "`max_bytes`", _parse_size, self.problems)
        return LogSettings(
            directory=read_path(log, "directory", default.directory, self.problems),
            max_bytes=default.max_bytes if max_bytes is None else max_bytes,
            keep=default.keep if keep is None else keep,
            key=read_path(log, "key", default.key, self.problems),
        )

    def _socket(self, api: Fields | None, runtime: Path) -> Path:
        default = runtime / "agent.sock"
        path = default if api is None else read_path(api, "socket", default, self.problems)
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
        name = read_host(node, "name", self.problems)
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


def parse_listen(text: str, examples: str) -> Listen:
    """An address and a port. Raises ValueError with a sentence."""
    match = _LISTEN.fullmatch(text)
    if match and 0 < int(match["port"]) <= 65535:
        with suppress(ValueError):  # told below
            return Listen(ip_address(match["v6"] or match["v4"]), int(match["port"]))
    raise ValueError(f"{shown(text)} is no place to listen: write {examples}")


def _parse_listen(text: str) -> Listen:
    return parse_listen(text, "`127.0.0.1:9469`, `[::1]:9469` or `off`")


def _parse_size(text: str) -> int:
    size = 0 if text.startswith("0") else parse_size(text)
    if not _MAX_BYTES[0] <= size <= _MAX_BYTES[1]:
        raise ValueError(f"{shown(text)} is too small or too great for one file: write a size from `1Mi` to `1024Gi`")
    return size
