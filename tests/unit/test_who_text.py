"""What verdicts carry of a workload's names: put together, written, read back, whatever people call things."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.core.who_text import TEXTS, labels_of, name_from, read_who, who_json, who_of
from exeat.model.identity import Container, Identity, Pod, Session, Who

ID = "ab" * 32
CONTAINER = Container("docker", ID, "coder", "python:3", (), (("app", "from image"), ("maintainer", "x")))
POD = Pod("ml", "coder-7", "uid", (("app", "coder"), ("pod-template-hash", "5")))
TEXT = st.text(max_size=300)


def test_a_container_is_called_by_its_runtime_and_a_pods_by_its_pod() -> None:
    """Each unique on its host."""
    assert name_from(Identity(CONTAINER)) == "docker/coder"
    assert name_from(Identity(CONTAINER, POD)) == "pod/ml/coder-7/coder"
    assert name_from(Identity(None, POD)) == "pod/ml/coder-7"
    assert name_from(None) == name_from(Identity()) == ""


def test_of_a_label_the_registered_value_counts_then_the_pods() -> None:
    """An image may say anything."""
    assert labels_of(Identity(CONTAINER, POD), {}) == {
        "app": "coder",
        "maintainer": "x",
        "pod-template-hash": "5",
    }
    assert labels_of(Identity(CONTAINER, POD), {"app": "registered"})["app"] == "registered"
    assert labels_of(None, {"a": "b"}) == {"a": "b"}


def test_a_verdict_carries_what_is_known_and_few_labels() -> None:
    """The first by name, none that only runtimes read."""
    labels = {f"label-{number:02}": "x" for number in range(40)} | {"io.kubernetes.pod.name": "p", "a": "first"}
    path = f"/system.slice/docker-{ID}.scope"
    session = Session("s1", "alice", "shell", "r7")
    who = who_of("docker/coder", path, Identity(CONTAINER, POD), session, labels)
    assert (who.container, who.container_id, who.image) == ("coder", ID, "python:3")
    assert (who.namespace, who.pod, who.pod_uid) == ("ml", "coder-7", "uid")
    assert (who.session, who.user, who.tool, who.run) == ("s1", "alice", "shell", "r7")
    assert len(who.labels) == 16
    assert who.labels[:2] == (("a", "first"), ("label-00", "x"))
    assert who_of("", "/system.slice/nginx.service", None, None, {}) == Who(unit="nginx.service")


def test_what_cannot_be_shown_is_not_carried() -> None:
    """Escape sequences, and texts without end."""
    nasty = Container("docker", ID, "a\x1b[31mb\n\u202e", "x" * 1000)
    who = who_of("n", "/x", Identity(nasty), None, {"k\n": "\0" * 999})
    assert who.container == "a?[31mb??"
    assert who.image == "x" * 250 + "..."
    assert who.labels == (("k?", "?" * 250 + "..."),)


@given(st.fixed_dictionaries(dict.fromkeys(TEXTS, TEXT)), st.dictionaries(TEXT, TEXT, max_size=16))
def test_what_is_written_is_read_back(texts: dict[str, str], labels: dict[str, str]) -> None:
    """Whatever letters there are."""
    who = Who(**texts, labels=tuple(labels.items()))
    assert read_who(json.loads(who_json(who))) == who


@pytest.mark.parametrize("found", [[], "x", 5, {"name": 5}, {"labels": []}, {"labels": {"a": 1}}, {"pod": None}])
def test_what_is_no_who_is_refused(found: object) -> None:
    """With its name."""
    with pytest.raises(ValueError, match="`who`"):
        read_who(found)
