"""Which cluster the plane follows, by its settings: said in one way or the other, and never by half."""

from __future__ import annotations

from pathlib import Path

import pytest

from exeat.errors import PolicyError
from exeat.plane.settings import ClusterPlace, PlaneSettings
from exeat.plane.settings_file import read_settings

AGENTS = "  agents: {certificate: /etc/exeat/plane.crt, key: /etc/exeat/plane.key, ca: /etc/exeat/agents-ca.crt}\n"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def read(cluster: str) -> PlaneSettings:
    """Settings with this as the cluster."""
    text = f"apiVersion: exeat.dev/v1\nkind: PlaneSettings\nspec:\n{AGENTS}  cluster: {cluster}\n"
    return read_settings(text, "plane.yaml")


def test_the_cluster_of_the_pod_or_one_that_is_named() -> None:
    """In a pod, Kubernetes says where all is."""
    assert read("{in_cluster: true}").cluster == ClusterPlace("", ACCOUNT / "ca.crt", ACCOUNT / "token")
    named = read("{server: 'https://[2001:db8::1]:6443', ca: /etc/exeat/ca.crt, token: /etc/exeat/token}").cluster
    assert named == ClusterPlace("https://[2001:db8::1]:6443", Path("/etc/exeat/ca.crt"), Path("/etc/exeat/token"))


@pytest.mark.parametrize(
    ("cluster", "sentence"),
    [
        ("{}", "`cluster` names no API server"),
        ("{in_cluster: false}", "`cluster` names no API server"),
        ("{in_cluster: yes}", "write `true` or `false`"),
        ("{in_cluster: true, token: /t}", "`cluster` names no API server"),
        ("{server: 'https://a:6443', ca: /c}", "`cluster` names no API server"),
        ("{in_cluster: true, server: 'https://a:6443', ca: /c, token: /t}", "`cluster` names no API server"),
        ("{server: 'http://a:6443', ca: /c, token: /t}", "is no API server"),
        ("{server: 'https://u:p@a:6443', ca: /c, token: /t}", "is no API server"),
        ("{server: 'https://a:6443/x', ca: /c, token: /t}", "is no API server"),
        ("{server: 'https://a:6443', ca: c.crt, token: /t}", "write the whole path"),
        ("{server: 'https://a:6443', ca: /c, token: /t, insecure: true}", "`insecure` is no field of `cluster`"),
        ("in_cluster", "`cluster` is `in_cluster`"),
    ],
)
def test_anything_else_is_refused(cluster: str, sentence: str) -> None:
    """With what to write instead; there is no way to do without a certificate's check."""
    with pytest.raises(PolicyError) as caught:
        read(cluster)
    assert any(sentence in problem for problem in caught.value.problems), caught.value.problems
