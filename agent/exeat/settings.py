"""The agent's own settings: /etc/exeat/exeat.yaml, read as strictly as a policy. What is left out has its default.

Pure: whether a directory or a group exists, the agent finds out when it starts.
"""

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from exeat.core.policy_limits import parse_size
from exeat.core.problems import Problems, shown
from exeat.core.yaml_fields import Fields, read_integer, read_parsed, read_text
from exeat.core.yaml_nodes import Mapping, Scalar, compose
from exeat.model.networks import Address

DEFAULT_FILE = Path("/etc/exeat/exeat.yaml")
_API_VERSION = "exeat.dev/v1"
_KIND = "AgentSettings"
_SPEC = ("policies", "state", "runtime", "log", "api", "metrics")
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
class Settings:
    """All that an agent is told about its host."""

    policies: Path = Path("/etc/exeat/policies.d")
    state: Path = Path("/var/lib/exeat")
    runtime: Path = Path("/run/exeat")
    log: LogSettings = field(default_factory=LogSettings)
    socket: Path = Path("/run/exeat/agent.sock")
    group: str = "exeat"
    metrics: Listen | None = Listen(ip_address("127.0.0.1"), 9469)  # None: off


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
        self._constant(document, "apiVersion", _API_VERSION)
        self._constant(document, "kind", _KIND)
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
        )

    def _constant(self, document: Fields, name: str, value: str) -> None:
        node = document.required(name, f"`{name}: {value}`")
        if node is not None and not (isinstance(node, Scalar) and node.text == value):
            what = shown(node.text) if isinstance(node, Scalar) else "no text"
            self.problems.add(node.line, f"`{name}` is {what}: write `{name}: {value}`")

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

    def _path(self, fields: Fields, name: str, default: Path) -> Path:
        node = fields.get(name)
        text = read_text(node, f"`{name}`", self.problems)
        if text is None or node is None:
            return default
        if why := _why_no_path(text):
            self.problems.add(node.line, f"`{name}` is {shown(text)}: {why}")
        return Path(text)


def _why_no_path(text: str) -> str | None:
    if not text.startswith("/"):
        return f"write the whole path, as in `/var/lib/exeat/{shown(text)[1:-1]}`"
    if ".." in text.split("/"):
        return "write the path without `..`"
    if not text.strip("/"):
        return "the root directory belongs to everybody: write a directory of exeat's own"
    return None


def _parse_listen(text: str) -> Listen:
    match = _LISTEN.fullmatch(text)
    if match:
        try:
            address = ip_address(match["v6"] or match["v4"])
        except ValueError:
            match = None
    if not match or not 0 < int(match["port"]) <= 65535:
        raise ValueError(f"{shown(text)} is no place to listen: write `127.0.0.1:9469`, `[::1]:9469` or `off`")
    return Listen(address, int(match["port"]))


def _parse_size(text: str) -> int:
    size = 0 if text.startswith("0") else parse_size(text)
    if not _MAX_BYTES[0] <= size <= _MAX_BYTES[1]:
        raise ValueError(f"{shown(text)} is too small or too great for one file: write a size from `1Mi` to `1024Gi`")
    return size
