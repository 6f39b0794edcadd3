"""Values of the chart that must fit each other: images and their digests, where a pod listens and where it is asked."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from deploy.chart_render import ask
from exeat.plane.settings_file import read_settings as read_plane_settings
from exeat.settings import read_settings

_DIGESTS = {"agent": "sha256:" + "1" * 64, "plane": "sha256:" + "2" * 64}


def _of_settings(part: str, **settings: Any) -> dict[str, Any]:
    return {part: {"settings": settings}}


# What is written as `agent.settings.metrics.listen`, and where the kubelet asks then.
_METRICS = {
    "127.0.0.1:9469": ("127.0.0.1", 9469),
    "127.0.0.1:19469": ("127.0.0.1", 19469),
    "[::1]:9469": ("::1", 9469),
    "0.0.0.0:9469": ("127.0.0.1", 9469),
    "[::]:9500": ("::1", 9500),
    "10.0.0.5:9469": ("10.0.0.5", 9469),
}
_DOORS = {"agents": {"listen": "[::]:19470"}, "web": {"listen": "0.0.0.0:19471"}}
_TAKEN: dict[str, dict[str, Any]] = {
    "default": {},
    "tag": {"image": {"agent": "registry.example.com:5000/exeat/agent", "tag": "0.2.0"}},
    "digests": {"image": {name: f"registry.example.com/exeat/{name}@{digest}" for name, digest in _DIGESTS.items()}},
    "one-digest": {"image": {"agent": f"exeat/agent:0.2.0@{_DIGESTS['agent']}", "tag": "0.3.0"}},
    "doors": _of_settings("plane", **_DOORS),
    "detach": {"agent": {"detach": True, "settings": {"metrics": {"listen": "off"}}}},
    **{listen: _of_settings("agent", metrics={"listen": listen}) for listen in _METRICS},
}
_ASKS = "the kubelet asks there whether the pod is ready"
_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a digest for both": ({"image": {"tag": "@" + _DIGESTS["agent"]}}, "tag"),
    "half a digest": ({"image": {"agent": "exeat/agent@sha256:12"}}, "agent"),
    "a tag in a name": ({"image": {"plane": "exeat/plane:0.1.0"}}, "plane"),
    "no metrics": (_of_settings("agent", metrics={"listen": "off"}), _ASKS),
    "no metrics, as old YAML says it": (_of_settings("agent", metrics={"listen": False}), _ASKS),
    "a port alone": (_of_settings("agent", metrics={"listen": ":9469"}), _ASKS),
    "agents that nobody lets in": (_of_settings("plane", agents={"listen": "127.0.0.1:9470"}), "nobody beside the pod"),
    "a console for nobody": (_of_settings("plane", web={"listen": "[::1]:9471"}), "nobody beside the pod"),
}


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, Any]]:
    """What Helm says to all of them, in one go."""
    asked = [{"values": values} for values in (*_TAKEN.values(), *(values for values, _ in _REFUSED.values()))]
    return dict(zip([*_TAKEN, *_REFUSED], ask(asked), strict=True))


def _object(answer: dict[str, Any], kind: str, end: str = "") -> dict[str, Any]:
    assert "manifests" in answer, answer
    texts = [text for name, text in answer["manifests"].items() if name.endswith(".yaml")]
    every = [each for text in texts for each in yaml.safe_load_all(text) if each]
    (found,) = [each for each in every if each["kind"] == kind and each["metadata"]["name"].endswith(end)]
    return dict(found)


def _container(answer: dict[str, Any], kind: str) -> dict[str, Any]:
    return dict(_object(answer, kind)["spec"]["template"]["spec"]["containers"][0])


@pytest.mark.parametrize(
    ("name", "agent", "plane"),
    [
        ("default", "exeat/agent:0.1.0", "exeat/plane:0.1.0"),
        ("tag", "registry.example.com:5000/exeat/agent:0.2.0", "exeat/plane:0.2.0"),
        (
            "digests",
            f"registry.example.com/exeat/agent@{_DIGESTS['agent']}",
            f"registry.example.com/exeat/plane@{_DIGESTS['plane']}",
        ),
        ("one-digest", f"exeat/agent:0.2.0@{_DIGESTS['agent']}", "exeat/plane:0.3.0"),
    ],
)
def test_each_image_has_its_own_digest_or_the_common_tag(
    answers: dict[str, dict[str, Any]], name: str, agent: str, plane: str
) -> None:
    """Two images of different content have no digest in common."""
    assert _container(answers[name], "DaemonSet")["image"] == agent
    assert _container(answers[name], "Deployment")["image"] == plane


@pytest.mark.parametrize("listen", _METRICS)
def test_the_kubelet_asks_where_the_agent_listens(answers: dict[str, dict[str, Any]], listen: str) -> None:
    """Elsewhere it would find nobody, and start every agent anew every three minutes."""
    host, port = _METRICS[listen]
    container = _container(answers[listen], "DaemonSet")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert (asked["host"], asked["port"]) == (host, port)
    config = _object(answers[listen], "ConfigMap", "-agent")["data"]["exeat.yaml"].replace("${NODE_NAME}", "node-1")
    metrics = read_settings(config, "exeat.yaml").metrics
    assert metrics is not None
    assert metrics.port == port
    assert metrics.address.is_unspecified or str(metrics.address) == host


def test_an_agent_that_lets_go_is_not_asked(answers: dict[str, dict[str, Any]]) -> None:
    """Nobody would answer."""
    assert not [name for name in _container(answers["detach"], "DaemonSet") if name.endswith("Probe")]
    assert len([name for name in _container(answers["default"], "DaemonSet") if name.endswith("Probe")]) == 3


@pytest.mark.parametrize("name", ["default", "doors"])
def test_the_planes_ports_are_those_of_its_settings(answers: dict[str, dict[str, Any]], name: str) -> None:
    """Service, probes and NetworkPolicy go by the ports' names."""
    answer = answers[name]
    container = _container(answer, "Deployment")
    settings = read_plane_settings(_object(answer, "ConfigMap", "-plane")["data"]["plane.yaml"], "plane.yaml")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert settings.agents is not None
    assert ports == {"agents": settings.agents.listen.port, "web": settings.web.listen.port}
    assert ports == ({"agents": 9470, "web": 9471} if name == "default" else {"agents": 19470, "web": 19471})
    assert [port["targetPort"] for port in _object(answer, "Service")["spec"]["ports"]] == [*ports]
    probes = [container[name] for name in container if name.endswith("Probe")]
    assert [probe.get("httpGet", probe.get("tcpSocket"))["port"] for probe in probes] == ["web"] * 3


@pytest.mark.parametrize("name", _REFUSED)
def test_values_that_would_keep_pods_from_coming_up_are_refused(answers: dict[str, dict[str, Any]], name: str) -> None:
    """When they are rendered, and not by a roll-out that stops."""
    assert _REFUSED[name][1] in answers[name].get("error", ""), answers[name]
