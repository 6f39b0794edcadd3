"""/etc/exeat/plane.yaml, read as strictly as a policy. What is left out has its default.

Whether what it names is there, the plane finds out when it starts.
"""

import os
import re
import socket
from collections.abc import Mapping as Variables
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from exeat.core.duration_text import parse_duration
from exeat.core.network_text import parse_network
from exeat.core.problems import Problems, shown
from exeat.core.yaml_fields import Fields, read_integer, read_list, read_parsed, read_text, read_word
from exeat.core.yaml_nodes import Mapping, Scalar, compose
from exeat.errors import ExeatError, PolicyError, Refused
from exeat.model.networks import Network
from exeat.plane.policies.rollout_judge import Plan
from exeat.plane.settings import AgentsDoor, ClusterPlace, Enroll, Oidc, PlaneSettings, Retention, StorePlace, WebDoor
from exeat.plane_access import why_no_path
from exeat.settings import Listen, parse_listen

_API_VERSION = "exeat.dev/v1"
_KIND = "PlaneSettings"
_SPEC = ("name", "agents", "web", "store", "policies", "rollout", "cluster", "signing_key", "enroll", "retention")
_AGENTS = ("listen", "certificate", "key", "ca")
_WEB = ("listen", "certificate", "key", "behind_proxy", "url", "oidc")
_OIDC = ("user_header", "groups_header", "trusted_proxies", "viewer_groups", "approver_groups", "admin_groups")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,100}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,100}")
_STORE = re.compile(r"sqlite:/.+|postgres(ql)?://.*")
_LEAST_KEPT = timedelta(hours=1)
_MOST_KEPT = timedelta(days=3660)
_NOWHERE = Path()
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # where Kubernetes puts it into each pod


def read_settings(text: str, filename: str) -> PlaneSettings:
    """Read settings. Raises PolicyError with every problem of the document as `file:line: what, what instead`."""
    problems = Problems(filename)
    begin = f"begin with `apiVersion: {_API_VERSION}` and `kind: {_KIND}`"
    root = compose(text, problems)
    if not isinstance(root, Mapping):
        raise problems.failure(root.line, f"these are no settings: {begin}")
    settings = _Reader(problems).read(Fields(root, "the file", ("apiVersion", "kind", "spec"), problems))
    problems.raise_if_any()
    return settings


def load_settings(path: Path) -> PlaneSettings:
    """Those in a file. Raises PolicyError."""
    try:
        return read_settings(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError([f"{path}: cannot be read: {error}"]) from error


def store_url(settings: PlaneSettings, variables: Variables[str, str] = os.environ) -> str:
    """Where the store is, as open_database() takes it. Raises ExeatError, in which nothing of the password stands."""
    place = settings.store
    if place.url:
        return place.url
    where = str(place.file) if place.file else f"the variable {place.environment}"
    try:
        text = place.file.read_text(encoding="utf-8") if place.file else variables.get(place.environment, "")
    except (OSError, UnicodeDecodeError) as error:
        raise ExeatError(f"the store is named by {place.file}, which cannot be read: {error}") from error
    first = text.strip().partition("\n")[0].strip()
    if not _STORE.fullmatch(first):
        raise ExeatError(f"the store is named by {where}: write `postgresql://user:password@host/database` there")
    return first


@dataclass(frozen=True, slots=True)
class _Reader:
    problems: Problems

    def read(self, document: Fields) -> PlaneSettings:
        document.constant("apiVersion", _API_VERSION)
        document.constant("kind", _KIND)
        node = document.required("spec", "`spec:`, and below it at least `agents`")
        spec = document.mapping(node, "`spec`", _SPEC) or self._none("spec", document)
        default = PlaneSettings(AgentsDoor(_NOWHERE, _NOWHERE, _NOWHERE), socket.gethostname())
        return PlaneSettings(
            agents=self._agents(spec),
            name=self._fitting(spec, "name", _NAME, "a name as in `plane-1`") or default.name,
            web=self._web(spec),
            store=self._store(spec),
            policies=self._path(spec, "policies"),
            rollout=self._rollout(spec),
            cluster=self._cluster(spec),
            signing_key=self._path(spec, "signing_key"),
            enroll=read_word(spec.get("enroll"), "`enroll`", Enroll, self.problems) or default.enroll,
            retention=self._retention(spec),
        )

    def _none(self, what: str, around: Fields) -> Fields:
        """In place of a mapping that is not there, and was told to be missing."""
        return Fields(Mapping(around.line_of(what), {}), f"`{what}`", (), Problems(""))

    def _agents(self, spec: Fields) -> AgentsDoor:
        node = spec.required("agents", "`agents: {certificate: PATH, key: PATH, ca: PATH}`")
        agents = spec.mapping(node, "`agents`", _AGENTS)
        if agents is None:
            return AgentsDoor(_NOWHERE, _NOWHERE, _NOWHERE)
        examples = {
            "certificate": "the file of the plane's certificate, for the names that agents know it by",
            "key": "the file of the certificate's key",
            "ca": "the file of the authority that vouches for nodes",
        }
        files = {}
        for name, example in examples.items():
            agents.required(name, example)
            files[name] = self._path(agents, name) or _NOWHERE
        door = AgentsDoor(files["certificate"], files["key"], files["ca"])
        listen = read_parsed(agents.get("listen"), "`listen`", _parse_listen, self.problems)
        return replace(door, listen=listen) if listen else door

    def _web(self, spec: Fields) -> WebDoor:
        web = spec.mapping(spec.get("web"), "`web`", _WEB)
        if web is None:
            return WebDoor()
        listen = read_parsed(web.get("listen"), "`listen`", _parse_listen, self.problems) or WebDoor().listen
        certificate, key = self._path(web, "certificate"), self._path(web, "key")
        is_behind_proxy = self._flag(web, "behind_proxy")
        if ("certificate" in web) != ("key" in web):
            self.problems.add(web.line, "`web` has one of `certificate` and `key`: write both, or neither")
        if "certificate" not in web and not is_behind_proxy and not listen.address.is_loopback:
            self.problems.add(
                web.line_of("listen"),
                f"{listen} is seen by others, and tokens would travel in the clear: write `certificate` and `key`, or "
                "`behind_proxy: true` if a proxy before it ends TLS",
            )
        url = read_parsed(web.get("url"), "`url`", _parse_origin, self.problems) or ""
        return WebDoor(listen, certificate, key, is_behind_proxy, url, self._oidc(web))

    def _oidc(self, web: Fields) -> Oidc | None:
        oidc = web.mapping(web.get("oidc"), "`oidc`", _OIDC)
        if oidc is None:
            return None
        oidc.required("user_header", "the header in which the proxy names who has signed in, as in `X-Forwarded-Email`")
        oidc.required("groups_header", "the header in which the proxy lists groups, as in `X-Forwarded-Groups`")
        oidc.required("trusted_proxies", "the proxy's addresses, as in `[10.0.0.5]`: anybody could send such a header")
        header = "letters, digits and `-`"
        proxies = read_list(oidc.get("trusted_proxies"), "`trusted_proxies`", self.problems)
        networks = [read_parsed(one, "a trusted proxy", _parse_proxy, self.problems) for one in proxies]
        return Oidc(
            user_header=self._fitting(oidc, "user_header", _HEADER, header) or "",
            groups_header=self._fitting(oidc, "groups_header", _HEADER, header) or "",
            trusted_proxies=tuple(one for one in networks if one),
            viewer_groups=self._groups(oidc, "viewer_groups"),
            approver_groups=self._groups(oidc, "approver_groups"),
            admin_groups=self._groups(oidc, "admin_groups"),
        )

    def _groups(self, oidc: Fields, name: str) -> tuple[str, ...]:
        nodes = read_list(oidc.get(name), f"`{name}`", self.problems)
        read = (read_text(one, f"an entry of `{name}`", self.problems) for one in nodes)
        return tuple(one for one in read if one)

    def _store(self, spec: Fields) -> StorePlace:
        node = spec.get("store")
        if not isinstance(node, Mapping):
            url = read_parsed(node, "`store`", _parse_store, self.problems)
            return StorePlace(url) if url else StorePlace()
        store = Fields(node, "`store`", ("file", "environment"), self.problems)
        if ("file" in store) == ("environment" in store):
            text = "`store` names no place: write `{file: PATH}`, `{environment: NAME}`, or the store itself"
            self.problems.add(store.line, text)
        variable = self._fitting(store, "environment", _VARIABLE, "a variable's name, as in `EXEAT_PLANE_STORE`")
        return StorePlace("", self._path(store, "file"), variable or "")

    def _rollout(self, spec: Fields) -> Plan | None:
        rollout = spec.mapping(spec.get("rollout"), "`rollout`", ("stages", "soak", "max_denials"))
        if rollout is None:
            return None
        if "policies" not in spec:
            self.problems.add(rollout.line, "`rollout` is about a directory of policies: write `policies` too")
        percents = read_list(rollout.get("stages"), "`stages`", self.problems)
        stages = tuple(read_integer(one, "a stage", self.problems, 1, 100) or 0 for one in percents)
        soak_s = read_parsed(rollout.get("soak"), "`soak`", parse_duration, self.problems)
        most = read_integer(rollout.get("max_denials"), "`max_denials`", self.problems, 0, 1000)
        default = Plan()
        try:
            return Plan(
                stages or default.stages,
                default.soak_s if soak_s is None else soak_s,
                default.max_per_mille if most is None else most,
            )
        except Refused as error:
            self.problems.add(rollout.line, str(error))
            return None

    def _cluster(self, spec: Fields) -> ClusterPlace | None:
        cluster = spec.mapping(spec.get("cluster"), "`cluster`", ("in_cluster", "server", "ca", "token"))
        if cluster is None:
            return None
        server = read_parsed(cluster.get("server"), "`server`", _parse_api_server, self.problems) or ""
        ca, token = self._path(cluster, "ca"), self._path(cluster, "token")
        given = [name for name in ("server", "ca", "token") if name in cluster]
        if self._flag(cluster, "in_cluster") if not given else len(given) == 3 and "in_cluster" not in cluster:
            return ClusterPlace(server, ca or _SERVICE_ACCOUNT / "ca.crt", token or _SERVICE_ACCOUNT / "token")
        self.problems.add(
            cluster.line,
            "`cluster` names no API server: write `{in_cluster: true}`, or all of "
            "`{server: https://HOST:6443, ca: FILE, token: FILE}`, or leave `cluster` out",
        )
        return None

    def _retention(self, spec: Fields) -> Retention:
        default = Retention()
        kept = spec.mapping(spec.get("retention"), "`retention`", ("verdicts", "tallies"))
        if kept is None:
            return default
        verdicts = read_parsed(kept.get("verdicts"), "`verdicts`", _parse_kept, self.problems) or default.verdicts
        tallies = read_parsed(kept.get("tallies"), "`tallies`", _parse_kept, self.problems) or default.tallies
        return Retention(verdicts, tallies)

    def _flag(self, fields: Fields, name: str) -> bool:
        node = fields.get(name)
        is_one = isinstance(node, Scalar) and node.is_plain and node.text in ("true", "false")  # so in every YAML
        if node is not None and not is_one:
            self.problems.add(node.line, f"`{name}` is no yes or no: write `true` or `false`")
        return isinstance(node, Scalar) and node.text == "true"

    def _fitting(self, fields: Fields, name: str, pattern: re.Pattern[str], what: str) -> str | None:
        node = fields.get(name)
        text = read_text(node, f"`{name}`", self.problems)
        if node is None or text is None or pattern.fullmatch(text):
            return text
        self.problems.add(node.line, f"`{name}` is {shown(text)}: write {what}")
        return None

    def _path(self, fields: Fields, name: str) -> Path | None:
        node = fields.get(name)
        text = read_text(node, f"`{name}`", self.problems)
        if node is None or text is None:
            return None
        if why := why_no_path(text, "/etc/exeat"):
            self.problems.add(node.line, f"`{name}` is {shown(text)}: {why}")
        return Path(text)


def _parse_listen(text: str) -> Listen:
    return parse_listen(text, "an address and a port, `0.0.0.0:9470` or `[::]:9470`")


def _parse_proxy(text: str) -> Network:
    try:
        return parse_network(text)
    except ValueError:
        sentence = f"{shown(text)} is no proxy's address: write one like `10.0.0.5`, or a network like `10.0.0.0/24`"
        raise ValueError(sentence) from None


def _parse_origin(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme in ("http", "https") and parts.hostname and text == f"{parts.scheme}://{parts.netloc}":
        return text
    raise ValueError(f"{shown(text)} is no address of a console: write one like `https://plane.example.com`")


def _parse_api_server(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme == "https" and parts.hostname and "@" not in text and text == f"https://{parts.netloc}":
        return text
    raise ValueError(f"{shown(text)} is no API server: write its address as in `https://10.0.0.1:6443`, without a path")


def _parse_store(text: str) -> str:
    if _STORE.fullmatch(text):
        return text
    raise ValueError("this is no store: write `sqlite:/var/lib/exeat-plane/plane.db` or `postgresql://host/database`")


def _parse_kept(text: str) -> timedelta:
    span = timedelta(seconds=parse_duration(text))
    if not _LEAST_KEPT <= span <= _MOST_KEPT:
        raise ValueError(f"{shown(text)} is too short or too long to keep verdicts: write a span from `1h` to `3660d`")
    return span
