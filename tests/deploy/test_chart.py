"""The chart and its variant for kubectl: rendered by Helm, taken by Kubernetes' schemas, of one mind with the rest."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.chart_render import CHART, KUBERNETES, REPOSITORY, ask
from exeat.plane.settings_file import read_settings as read_plane_settings
from exeat.settings import read_settings

VERSIONS = ("1.31", kubernetes_validate.latest_version())
VALUES: dict[str, dict[str, Any]] = {
    "default": {},
    "agents-alone": {"plane": {"enabled": False}, "agent": {"policies": {"deny.yaml": "apiVersion: exeat.dev/v1\n"}}},
    "plane-alone": {"agent": {"enabled": False}, "plane": {"cluster": False, "signing": {"secret": ""}}},
    "replicas": {"plane": {"replicas": 3, "store": {"secret": "database"}, "priorityClassName": "high"}},
    "detach": {"agent": {"detach": True}},
    "own-everything": {
        "nameOverride": "gate",
        "image": {"agent": "mine/agent@sha256:" + "0" * 64, "tag": "0.1.0-2", "pullSecrets": ["registry"]},
        "agent": {
            "certificates": {"hostPath": "/var/lib/exeat-tls"}, "nodeLabels": {"role": "sandbox"},
            "runtimeDirectories": ["/run/crio", "/run/k3s/containerd"], "podLabels": {"team": "x"},
            "settings": {"log": {"keep": 3}, "metrics": {"listen": "0.0.0.0:9469"}}, "podAnnotations": {"a": "b"},
        },
        "plane": {
            "networkPolicy": {"webFrom": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}]},
            "store": {"persistence": {"existingClaim": "mine", "storageClass": "fast"}}, "podLabels": {"team": "x"},
            "service": {"annotations": {"a": "b"}}, "settings": {"enroll": "listed"}, "podAnnotations": {"a": "b"},
        },
    },
    "no-volume": {"plane": {"store": {"persistence": {"enabled": False}}, "networkPolicy": {"enabled": False}}},
}  # fmt: skip
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a value that is none": ({"agents": {}}, "agents"),
    "a value in the wrong place": ({"agent": {"image": "x"}}, "image"),
    "all of /run": ({"agent": {"runtimeDirectories": ["/run"]}}, "runtimeDirectories"),
    "a tag with a blank": ({"image": {"tag": "a b"}}, "tag"),
    "planes that share a file": ({"plane": {"replicas": 2}}, "several planes share no file"),
    "no replica": ({"plane": {"replicas": 0}}, "replicas"),
}


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, Any]]:
    """What Helm says to all of them, in one go."""
    names = [*VALUES, *REFUSED, "lint"]
    asked = [{"values": values} for values in VALUES.values()]
    asked += [{"values": values} for values, _ in REFUSED.values()]
    return dict(zip(names, ask([*asked, {"lint": True}]), strict=True))


def _objects(answer: dict[str, Any]) -> list[dict[str, Any]]:
    texts = [text for name, text in answer["manifests"].items() if name.endswith(".yaml")]
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


def _one(answer: dict[str, Any], kind: str, end: str = "") -> dict[str, Any]:
    found = [each for each in _objects(answer) if each["kind"] == kind and each["metadata"]["name"].endswith(end)]
    assert len(found) == 1, [each["metadata"]["name"] for each in found]
    return found[0]


def _container(answer: dict[str, Any], kind: str) -> dict[str, Any]:
    container: dict[str, Any] = _one(answer, kind)["spec"]["template"]["spec"]["containers"][0]
    return container


def test_helm_finds_nothing_to_complain_about(answers: dict[str, dict[str, Any]]) -> None:
    """`helm lint --strict`; an icon it may have."""
    lint = answers["lint"]
    assert lint["total_charts_linted"] == 1
    assert lint["errors"] == []
    assert [each["error"] for each in lint["messages"]] in ([], ["icon is recommended"])


@pytest.mark.parametrize("name", VALUES)
def test_what_is_rendered_is_taken_by_kubernetes_schemas(answers: dict[str, dict[str, Any]], name: str) -> None:
    """Every object, strictly: no field that a server would pass over."""
    objects = _objects(answers[name])
    assert len(objects) >= 4
    for each in objects:
        for version in VERSIONS:
            kubernetes_validate.validate(each, version, strict=True)
        if each["kind"] not in ("ClusterRole", "ClusterRoleBinding"):
            assert each["metadata"]["namespace"] == "exeat"


def test_the_schemas_would_find_a_mistake(answers: dict[str, dict[str, Any]]) -> None:
    """A field's name in the wrong case."""
    daemons = _one(answers["default"], "DaemonSet")
    daemons["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(daemons, "1.31", strict=True)


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_mean_nothing_are_refused(answers: dict[str, dict[str, Any]], name: str) -> None:
    """By the chart's schema, or by the chart in a sentence."""
    assert REFUSED[name][1] in answers[name].get("error", ""), answers[name]


def test_every_value_is_in_the_schema_and_explained() -> None:
    """Neither file has a value that the other lacks."""
    text = (CHART / "values.yaml").read_text()
    schema = json.loads((CHART / "values.schema.json").read_text())
    _same(schema, yaml.safe_load(text), "")
    guide = (REPOSITORY / "docs/kubernetes.md").read_text()
    for value in ("agent.detach", "agent.certificates.hostPath", "agent.runtimeDirectories", "plane.store.secret"):
        assert f"`{value}`" in guide


def _same(schema: dict[str, Any], values: Any, path: str) -> None:
    if "properties" not in schema:
        return
    assert schema["additionalProperties"] is False
    assert schema["properties"].keys() - {"global"} == values.keys(), path
    for name, inner in values.items():
        _same(schema["properties"][name], inner, f"{path}.{name}")


def test_the_agent_has_no_rights_that_its_unit_has_not(answers: dict[str, dict[str, Any]]) -> None:
    """The unit file and the manifest must not drift apart. What a pod has no use for, it has not."""
    unit = (REPOSITORY / "packaging/exeat.service").read_text()
    of_unit = re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    assert of_unit is not None
    security = _container(answers["default"], "DaemonSet")["securityContext"]
    # Kernels before 5.11, a group that may ask, files of other users: none of them is there.
    no_use = {"CAP_SYS_RESOURCE", "CAP_CHOWN", "CAP_DAC_OVERRIDE"}
    assert {f"CAP_{name}" for name in security["capabilities"]["add"]} == {*of_unit[1].split()} - no_use
    assert security["capabilities"]["drop"] == ["ALL"]
    assert security["privileged"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    pod = _one(answers["default"], "DaemonSet")["spec"]["template"]["spec"]
    assert pod["hostPID"] is True
    assert pod["hostNetwork"] is True
    assert pod["automountServiceAccountToken"] is False


def test_the_plane_is_an_ordinary_program(answers: dict[str, dict[str, Any]]) -> None:
    """No right of root's, nothing of the node."""
    pod = _one(answers["default"], "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    security = pod["containers"][0]["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert "hostPath" not in json.dumps(pod["volumes"])
    # `USER` of the image is the same, so that neither depends on the other.
    dockerfile = (REPOSITORY / "packaging/container/Dockerfile").read_text()
    assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" in dockerfile


def test_the_plane_may_read_policies_and_write_their_status_and_nothing_else(
    answers: dict[str, dict[str, Any]],
) -> None:
    """It could not even change the policies that it reads."""
    policies = ["egresspolicies", "clusteregresspolicies"]
    assert _one(answers["default"], "ClusterRole", "-plane")["rules"] == [
        {"apiGroups": ["exeat.dev"], "resources": policies, "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["exeat.dev"], "resources": [f"{name}/status" for name in policies], "verbs": ["patch"]},
    ]
    assert not [each for each in _objects(answers["plane-alone"]) if each["kind"].startswith("ClusterRole")]


@pytest.mark.parametrize("name", [name for name in VALUES if name != "plane-alone"])
def test_the_agents_settings_are_settings(answers: dict[str, dict[str, Any]], name: str) -> None:
    """Read by the agent's own reader; and all paths in them are mounted."""
    config = _one(answers[name], "ConfigMap", "-agent")["data"]["exeat.yaml"].replace(
        "${NODE_NAME}", "node-1.example.com"
    )
    settings = read_settings(config, "exeat.yaml")
    assert settings.node.name == "node-1.example.com"
    assert (settings.plane is not None) == (name != "agents-alone")
    mounts = [mount["mountPath"] for mount in _container(answers[name], "DaemonSet")["volumeMounts"]]
    read = [settings.policies, settings.state, settings.runtime, settings.log.directory]
    read += [settings.plane.ca, settings.plane.certificate] if settings.plane else []
    for path in read:
        assert any(Path(path).is_relative_to(mount) for mount in mounts), path


@pytest.mark.parametrize("name", [name for name in VALUES if name != "agents-alone"])
def test_the_planes_settings_are_settings(answers: dict[str, dict[str, Any]], name: str) -> None:
    """Read by the plane's own reader."""
    settings = read_plane_settings(_one(answers[name], "ConfigMap", "-plane")["data"]["plane.yaml"], "plane.yaml")
    assert settings.web.certificate is not None
    assert (settings.store.environment == "EXEAT_STORE") == (name == "replicas")
    environment = _container(answers[name], "Deployment").get("env", [])
    assert [one["name"] for one in environment] == (["EXEAT_STORE"] if name == "replicas" else [])


def test_agents_find_the_plane_where_its_service_is(answers: dict[str, dict[str, Any]]) -> None:
    """Name and port, under other names as well; and the Service finds its pods."""
    for name in ("default", "own-everything"):
        service = _one(answers[name], "Service")
        config = yaml.safe_load(_one(answers[name], "ConfigMap", "-agent")["data"]["exeat.yaml"])
        host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
        assert config["spec"]["plane"]["endpoints"] == [f"{host}:{service['spec']['ports'][0]['port']}"]
        pod = _one(answers[name], "Deployment")["spec"]["template"]
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


def test_a_change_of_settings_starts_pods_anew(answers: dict[str, dict[str, Any]]) -> None:
    """By a sum of them in the pod's annotations."""
    for kind in ("DaemonSet", "Deployment"):
        sums = {
            _one(answers[name], kind)["spec"]["template"]["metadata"]["annotations"]["exeat.dev/settings"]
            for name in ("default", "own-everything")
        }
        assert len(sums) == 2


def test_one_replica_keeps_no_node_from_being_drained(answers: dict[str, dict[str, Any]]) -> None:
    """A budget for one would forbid every eviction."""
    assert "PodDisruptionBudget" not in [each["kind"] for each in _objects(answers["default"])]
    assert _one(answers["replicas"], "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert _one(answers["default"], "Deployment")["spec"]["strategy"] == {"type": "Recreate"}


def test_the_variant_for_kubectl_is_what_the_chart_renders(answers: dict[str, dict[str, Any]]) -> None:
    """Byte for byte, and whole."""
    told = "it is old: .venv/bin/python packaging/kubernetes/generate.py"
    assert (KUBERNETES / "exeat.yaml").read_text() == answers["default"]["whole"], told
    documents = [*yaml.safe_load_all((KUBERNETES / "exeat.yaml").read_text())]
    assert [each["kind"] for each in documents[:3]] == ["Namespace", *["CustomResourceDefinition"] * 2]
    for each in documents:
        kubernetes_validate.validate(each, VERSIONS[0], strict=True)
    rendered = {(each["kind"], each["metadata"]["name"]) for each in _objects(answers["default"])}
    assert rendered == {(each["kind"], each["metadata"]["name"]) for each in documents[3:]}


def test_the_charts_definitions_are_made_of_the_one_source() -> None:
    """Byte for byte."""
    spec = importlib.util.spec_from_file_location("generate", KUBERNETES / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    made = {file.name: file.read_text() for file in (CHART / "crds").iterdir()}
    assert made == generate.definitions(), "they are old: .venv/bin/python packaging/kubernetes/generate.py"


def test_the_charts_version_is_exeats() -> None:
    """One version for all of it."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = re.search(r'__version__ = "(.*)"', (REPOSITORY / "agent/exeat/__init__.py").read_text())
    assert version is not None
    assert chart["version"] == chart["appVersion"] == version[1]


def test_the_certificates_are_those_that_the_pods_mount(answers: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Secrets, files and names fit; each certificate is good for its purpose alone; what there is stays."""

    def made(*nodes: str) -> dict[str, dict[str, bytes]]:
        words = [KUBERNETES / "certificates.sh", "--directory", tmp_path / "kept", *nodes]
        done = subprocess.run(words, capture_output=True, check=True, timeout=60, text=True)
        secrets = [*yaml.safe_load_all(done.stdout)]
        for each in secrets:
            kubernetes_validate.validate(each, VERSIONS[0], strict=True)
        return {
            each["metadata"]["name"]: {name: base64.b64decode(data) for name, data in each["data"].items()}
            for each in secrets
        }

    secrets = made("node-1", "node-2")
    text = yaml.safe_dump_all(_objects(answers["default"]))
    assert {*re.findall(r"secretName: (\S+)", text)} == secrets.keys()
    agent = _one(answers["default"], "ConfigMap", "-agent")["data"]["exeat.yaml"].replace("${NODE_NAME}", "node-2")
    plane = _one(answers["default"], "ConfigMap", "-plane")["data"]["plane.yaml"]
    assert {*re.findall(r"/etc/exeat-tls/(\S+)", agent)} <= secrets["exeat-agent-tls"].keys()
    assert {*re.findall(r"/etc/exeat-tls/(\S+)", plane)} == secrets["exeat-plane-tls"].keys()
    for secret in secrets.values():
        for name, data in secret.items():
            (tmp_path / name).write_bytes(data)

    def openssl(*words: str) -> str:
        done = subprocess.run(["openssl", *words], capture_output=True, cwd=tmp_path, text=True, timeout=20)
        return done.stdout + done.stderr

    host = ["-verify_hostname", "exeat-plane.exeat.svc"]
    assert "tls.crt: OK" in openssl("verify", "-purpose", "sslserver", "-CAfile", "ca.crt", *host, "tls.crt")
    node = ["-verify_hostname", "node-2", "node-2.crt"]
    assert "node-2.crt: OK" in openssl("verify", "-purpose", "sslclient", "-CAfile", "agents-ca.crt", *node)
    # A node's certificate is none of the plane's, and no authority's.
    assert "OK" not in openssl("verify", "-CAfile", "ca.crt", "node-2.crt")
    assert "OK" not in openssl("verify", "-purpose", "sslserver", "-CAfile", "agents-ca.crt", "node-2.crt")
    assert openssl("pkey", "-in", "signing.key", "-pubout") == (tmp_path / "plane.pub").read_text()
    # Another node comes: what there is stays.
    later = made("node-1", "node-2", "node-3")
    assert later["exeat-agent-tls"].items() >= secrets["exeat-agent-tls"].items()
    assert "node-3.crt" in later["exeat-agent-tls"]
    assert later["exeat-plane-tls"] == secrets["exeat-plane-tls"]


@pytest.mark.parametrize("words", [[], ["../x"], ["Node"], ["--force", "a"], ["-e"]])
def test_names_that_no_node_has_get_no_certificate(words: list[str], tmp_path: Path) -> None:
    """And nothing is made."""
    kept = tmp_path / "kept"
    whole = [KUBERNETES / "certificates.sh", "--directory", kept, *words]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert done.stderr.startswith("certificates.sh: ")
    assert done.stdout == ""
    assert not kept.exists()
