"""What docs/kubernetes.md has people type, where something else than the chart must fit it."""

from __future__ import annotations

import functools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.chart_render import KUBERNETES, REPOSITORY, ask
from exeat.settings import read_settings

GUIDE = (REPOSITORY / "docs/kubernetes.md").read_text()
# Kubernetes' own: of all annotations of an object, and of a Secret's data.
ANNOTATIONS_MAX, SECRET_MAX = 262_144, 1_048_576
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def _whole() -> list[dict[str, Any]]:
    return [*yaml.safe_load_all((KUBERNETES / "exeat.yaml").read_text())]


def _daemons(documents: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [each for each in documents if each and each["kind"] == "DaemonSet"]
    return dict(found)


def test_letting_go_without_helm_is_what_the_chart_does() -> None:
    """The guide's patch makes of the file's DaemonSet the one that `agent.detach` renders."""
    (answer,) = ask([{"values": {"agent": {"detach": True}}}])
    meant = _daemons([*yaml.safe_load_all(answer["whole"])])
    patched = _daemons(_whole())
    assert patched != meant
    words = re.search(r"patch daemonset exeat-agent --type=json --patch '(.*?)'", GUIDE, re.DOTALL)
    assert words is not None
    for step in json.loads(words[1]):
        _patch(patched, step)
    assert patched == meant


def _patch(document: Any, step: dict[str, Any]) -> None:
    """RFC 6902, as far as the guide goes."""
    *way, last = step["path"].split("/")[1:]
    for part in way:
        document = document[int(part) if isinstance(document, list) else part]
    if step["op"] == "add":
        document[last] = step["value"]
    else:
        assert step["op"] == "remove"
        del document[last]


def test_a_changed_definition_is_applied_over_helms() -> None:
    """Helm is the manager of the fields that it made: without force, each that changes is a conflict."""
    lines = [line for line in GUIDE.splitlines() if "apply" in line and "chart/exeat/crds" in line]
    assert [line for line in lines if "--server-side" in line and "--force-conflicts" in line] == lines != []


@pytest.mark.parametrize("file", ["docs/kubernetes.md", "packaging/kubernetes/exeat.yaml",
                                  "packaging/kubernetes/certificates.sh",
                                  "packaging/chart/exeat/templates/NOTES.txt"])  # fmt: skip
def test_certificates_are_applied_on_the_servers_side(file: str) -> None:
    """kubectl would else write all of the Secret, keys and all, into one annotation."""
    lines = [line for line in (REPOSITORY / file).read_text().splitlines() if re.search(r"kubectl apply .*-f -", line)]
    assert [line for line in lines if "kubectl apply --server-side -f -" in line] == lines != []


def test_a_secret_has_room_for_the_nodes_that_the_guide_says(tmp_path: Path) -> None:
    """With names as long as a cloud gives them; an annotation has not."""
    nodes = [f"ip-10-0-1{n}-101.eu-central-1.compute.internal" for n in "01"]
    words = [KUBERNETES / "certificates.sh", "--directory", tmp_path / "kept", *nodes]
    text = subprocess.run(words, capture_output=True, check=True, timeout=60, text=True).stdout
    (secret,) = [each for each in yaml.safe_load_all(text) if each["metadata"]["name"] == "exeat-agent-tls"]
    of_one = [(name, data) for name, data in secret["data"].items() if name.startswith(nodes[1])]
    assert len(of_one) == 2
    written = sum(len(name) + len(data) for name, data in of_one)
    held = sum(len(data) * 3 // 4 for _, data in of_one)
    assert 1_000 < SECRET_MAX // held < 1_200
    assert 190 < ANNOTATIONS_MAX // written < 210
    for said in ("190 nodes", "1,100", "1,000"):
        assert said in GUIDE


def test_the_number_of_capabilities_is_said_right() -> None:
    """In the guide and where the image is made."""
    container = _daemons(_whole())["spec"]["template"]["spec"]["containers"][0]
    number = _NUMBERS[len(container["securityContext"]["capabilities"]["add"])]
    assert f"its {number} capabilities" in GUIDE
    dockerfile = (REPOSITORY / "packaging/container/Dockerfile").read_text()
    assert f"Of root's rights it needs {number}:" in dockerfile


# The entry point without its container: `/etc` and `/tmp` are its own. Where exeat would begin, it shows what it got.
_ENTRY = """
exec 3<"$1"
mount -t tmpfs none /etc && mkdir /etc/exeat && cat >/etc/exeat/exeat.yaml
mount -t tmpfs none /tmp && mkdir /tmp/bin
printf '#!/bin/sh\\nshift 2; echo "$@"; cat /tmp/exeat.yaml\\n' >/tmp/bin/nsenter && chmod 755 /tmp/bin/nsenter
PATH=/tmp/bin:$PATH exec sh /dev/fd/3 agent
"""
_OWN = """\
apiVersion: exeat.dev/v1
kind: AgentSettings
spec:
  node:
    name: "${NODE_NAME}"
    labels: {zone: 'of ${NODE_NAME}'}
"""
_NODES = ("node-1.example.com", "123", "1e3", "0x1f", "null", "true", "off", "2026-11-22", "1.5", "0")


@pytest.mark.parametrize("node", _NODES)
def test_a_nodes_name_is_a_text_whatever_yaml_makes_of_it(node: str) -> None:
    """Kubernetes takes such names. The agent's settings are read by the agent's own reader."""
    settings = read_settings(_entered(_config(), node), "exeat.yaml")
    assert settings.node.name == node
    assert dict(settings.node.labels) == {"host": node}
    assert settings.plane is not None
    assert settings.plane.certificate == Path(f"/etc/exeat-tls/{node}.crt")
    # With quotation marks of its own, as somebody may write it.
    own = read_settings(_entered(_OWN, node), "exeat.yaml")
    assert own.node.name == node
    assert dict(own.node.labels) == {"zone": f"of {node}"}


@functools.cache
def _config() -> str:
    """As the chart renders it, with the name in one place more."""
    (answer,) = ask([{"values": {"agent": {"nodeLabels": {"host": "${NODE_NAME}"}}}}])
    configs = [each for each in yaml.safe_load_all(answer["whole"]) if each["kind"] == "ConfigMap"]
    (found,) = [each["data"]["exeat.yaml"] for each in configs if each["metadata"]["name"] == "exeat-agent"]
    return str(found)


def _entered(settings: str, node: str) -> str:
    """What the image's entry point makes of them for a node."""
    script = REPOSITORY / "packaging/container/agent.sh"
    words = ["unshare", "--mount", "sh", "-euc", _ENTRY, "sh", script]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "NODE_NAME": node}
    done = subprocess.run(words, input=settings, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    began, _, made = done.stdout.partition("\n")
    assert began == "exeat agent --config /tmp/exeat.yaml"
    return made
