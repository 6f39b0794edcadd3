"""What hostile makers call their containers makes no two workloads one, and is text."""

import pytest

from exeat.core.who_text import WHO_TEXT_MAX, name_from, who_json, who_of
from exeat.model.identity import Container, Identity, Pod

ID = "ab" * 32


def in_pod(pod: str, container: str) -> Identity:
    """A container of it."""
    return Identity(Container("containerd", ID, container, "x"), Pod("n" * 63, pod, "u"))


def test_names_too_long_to_be_shown_stay_apart() -> None:
    """Kubernetes allows 253 letters for the pod alone: cut off, all its containers would be called the same."""
    pod = "p" * 253
    names = {name_from(in_pod(pod, "main")), name_from(in_pod(pod, "side")), name_from(in_pod(pod[:-1] + "q", "main"))}
    names.add(name_from(Identity(None, Pod("n" * 63, pod, "u"))))
    assert len(names) == 4
    assert all(len(name) == WHO_TEXT_MAX and name.startswith("pod/nnn") for name in names)
    assert name_from(in_pod(pod, "main")) in names  # the same each time


def test_a_name_that_can_be_shown_whole_is() -> None:
    """Also one of just the length."""
    container = Container("docker", ID, "c" * (WHO_TEXT_MAX - len("docker/")), "x")
    assert name_from(Identity(container)) == f"docker/{container.name}"


@pytest.mark.parametrize("nasty", ["a\x1b[2Jb", "a\nb", "a\u202eb", "a\x00b", "a\u2028b"])
def test_what_moves_a_terminal_is_no_part_of_a_name(nasty: str) -> None:
    """A container's name, its image, a label: in lists, in verdicts."""
    container = Container("docker", ID, nasty, nasty, (), ((nasty, nasty),))
    identity = Identity(container, Pod(nasty, nasty, nasty, ((nasty, nasty),)))
    assert name_from(identity).isprintable()
    who = who_of(name_from(identity), f"/docker/{ID}", identity, None, {nasty: nasty})
    assert who_json(who).isprintable()
    assert all(text.isprintable() for text in (who.container, who.image, who.pod, who.namespace, *who.labels[0]))
