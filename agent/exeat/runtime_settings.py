"""The agent's settings of container runtimes: where they are asked who a container is. Read by settings.py."""

from dataclasses import dataclass
from pathlib import Path

from exeat.core.problems import Problems, shown
from exeat.core.yaml_fields import Fields, read_list, read_text
from exeat.core.yaml_nodes import Node, Scalar
from exeat.plane_access import why_no_path

_FIELDS = ("docker", "podman", "cri")
_HOME = "/run"
_CRI_MAX = 4


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """A socket that is not there is no runtime of this host; it may come later. None: off."""

    docker: Path | None = Path("/run/docker.sock")
    podman: Path | None = Path("/run/podman/podman.sock")
    cri: tuple[Path, ...] = (Path("/run/containerd/containerd.sock"), Path("/run/crio/crio.sock"))


_DEFAULT = RuntimeSettings()


def read_runtimes(spec: Fields, problems: Problems) -> RuntimeSettings:
    """The field `runtimes`."""
    fields = spec.mapping(spec.get("runtimes"), "`runtimes`", _FIELDS)
    if fields is None:
        return _DEFAULT
    return RuntimeSettings(
        docker=_socket(fields, "docker", problems) if "docker" in fields else _DEFAULT.docker,
        podman=_socket(fields, "podman", problems) if "podman" in fields else _DEFAULT.podman,
        cri=_sockets(fields, problems) if "cri" in fields else _DEFAULT.cri,
    )


def _socket(fields: Fields, name: str, problems: Problems) -> Path | None:
    node = fields.get(name)
    return None if _is_off(node) else _path(node, name, problems)


def _sockets(fields: Fields, problems: Problems) -> tuple[Path, ...]:
    node = fields.get("cri")
    if _is_off(node):
        return ()
    nodes = read_list(node, "`cri`", problems)
    if len(nodes) > _CRI_MAX:
        problems.add(nodes[_CRI_MAX].line, f"`cri` has {len(nodes)} sockets: write at most {_CRI_MAX}")
    read = (_path(one, "cri", problems) for one in nodes)
    return tuple(dict.fromkeys(one for one in read if one))


def _path(node: Node | None, name: str, problems: Problems) -> Path | None:
    text = read_text(node, f"`{name}`", problems)
    if text is None or node is None:
        return None
    if why := why_no_path(text, _HOME):
        problems.add(node.line, f"`{name}` is {shown(text)}: {why}, or `off`")
    return Path(text)


def _is_off(node: Node | None) -> bool:
    return isinstance(node, Scalar) and node.text == "off"  # false to old YAML, text to new: they mean the same
