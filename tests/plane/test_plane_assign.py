"""Which policies a node gets, and in which manifest; and who signs it."""

import hashlib
import time
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from exeat.core.rollout import is_chosen
from exeat.errors import ExeatError
from exeat.model.policy import Subject
from exeat.plane.policies.assign import (
    VALID_NS,
    Issued,
    Placement,
    Version,
    entries_for,
    is_due,
    manifest_for,
    serial_after,
)
from exeat.plane.policies.signing import PlaneSigner
from exeat.v1 import plane_pb2
from plane.stores import SECOND, T0

HALF_NS = VALID_NS // 2


def version(revision: str, **labels: str) -> Version:
    """For the nodes with these labels."""
    return Version(revision, Subject(nodes=tuple(labels.items())))


def test_a_policy_goes_to_the_nodes_that_it_names() -> None:
    """All of its labels must be there and equal; none: every node."""
    placements = [
        Placement("everywhere", version("1")),
        Placement("sandboxes", version("2", role="sandbox")),
        Placement("west", version("3", role="sandbox", zone="west")),
    ]
    assert entries_for("n", {}, placements) == (("everywhere", "1"),)
    assert entries_for("n", {"role": "db"}, placements) == (("everywhere", "1"),)
    sandbox = {"role": "sandbox", "more": "x"}
    assert entries_for("n", sandbox, placements) == (("everywhere", "1"), ("sandboxes", "2"))
    assert entries_for("n", {**sandbox, "zone": "west"}, placements[::-1]) == (
        *(("everywhere", "1"), ("sandboxes", "2"), ("west", "3")),
    )


@pytest.mark.parametrize("percent", [0, 1, 10, 50, 99, 100])
def test_chosen_nodes_have_the_new_revision_and_the_others_the_old_one(percent: int) -> None:
    """The same ones as everywhere in exeat; nobody is left without."""
    placement = Placement("p", version("new"), version("old"), percent)
    for at in range(300):
        name = f"node-{at}"
        wanted = "new" if is_chosen(name, "p", percent) else "old"
        assert entries_for(name, {}, [placement]) == (("p", wanted),)


def test_a_policy_that_goes_out_for_the_first_time_is_on_no_other_node() -> None:
    """Before there was none."""
    placement = Placement("p", version("new"), None, 40)
    with_it = [at for at in range(500) if entries_for(f"node-{at}", {}, [placement])]
    assert with_it == [at for at in range(500) if is_chosen(f"node-{at}", "p", 40)]
    assert 100 < len(with_it) < 300


def test_a_change_of_labels_is_rolled_out_like_any_other() -> None:
    """The old revision goes on where it was meant to be, until the node is chosen."""
    placement = Placement("p", version("new", role="b"), version("old", role="a"), 50)
    for at in range(100):
        name = f"node-{at}"
        is_in = is_chosen(name, "p", 50)
        assert entries_for(name, {"role": "a"}, [placement]) == (() if is_in else (("p", "old"),))
        assert entries_for(name, {"role": "b"}, [placement]) == ((("p", "new"),) if is_in else ())


def test_a_new_manifest_is_due_when_something_else_holds_or_the_last_one_gets_old() -> None:
    """Not before: a node that comes back after a break is sent nothing."""
    entries = (("p", "1"),)
    last = Issued(7, entries, T0)
    assert not is_due(last, entries, T0)
    assert not is_due(last, entries, T0 + HALF_NS - 1)
    assert is_due(last, entries, T0 + HALF_NS)
    assert is_due(last, (("p", "2"),), T0)
    assert is_due(last, (), T0)
    assert is_due(None, (), T0)
    assert is_due(last, entries, T0 - SECOND)  # issued in the future: a clock was wrong


def test_what_a_node_says_that_it_has_is_as_old_as_its_serial() -> None:
    """A plane that has restarted does not push everything anew."""
    hello = plane_pb2.Hello(node="n", serial=T0 // 1_000_000)
    hello.holdings.add(name="b", revision="2")
    hello.holdings.add(name="a", revision="1")
    told = Issued.told(hello)
    assert told is not None
    assert told == Issued(T0 // 1_000_000, (("a", "1"), ("b", "2")), T0)
    assert not is_due(told, (("a", "1"), ("b", "2")), T0 + SECOND)
    assert is_due(told, (("a", "1"), ("b", "2")), T0 + HALF_NS)
    assert Issued.told(plane_pb2.Hello(node="n")) is None


def test_serials_grow_and_are_the_time_where_they_can_be() -> None:
    """So that a store that was brought back goes on above what it has forgotten."""
    assert serial_after(0, T0) == T0 // 1_000_000
    assert serial_after(T0 // 1_000_000, T0) == T0 // 1_000_000 + 1
    assert serial_after(5 + T0 // 1_000_000, T0) == T0 // 1_000_000 + 6


def test_a_manifest_says_for_whom_and_until_when() -> None:
    """And what."""
    manifest = manifest_for("n1", (("a", "1"), ("b", "2")), 17, T0)
    assert (manifest.node, manifest.serial) == ("n1", 17)
    assert manifest.issued.ToNanoseconds() == T0
    assert manifest.expires.ToNanoseconds() == T0 + VALID_NS
    assert [(one.name, one.revision) for one in manifest.policies] == [("a", "1"), ("b", "2")]


def test_two_hundred_nodes_and_fifty_policies_take_no_time() -> None:
    """Each push begins with that. The bar is ten times what it takes."""
    placements = [
        Placement(f"p{at}", version("new", role="a"), version("old", role="a"), 50 if at % 2 else 100)
        for at in range(50)
    ]
    began = time.process_time()
    entries = [entries_for(f"node-{at}", {"role": "a"}, placements) for at in range(200)]
    assert time.process_time() - began < 1
    assert all(len(one) == 50 for one in entries)


def test_what_is_signed_is_what_the_protocol_says(tmp_path: Path) -> None:
    """By the words of the proto, with another library; and nothing else is signed by it."""
    signer = PlaneSigner.of(tmp_path / "plane.key")
    public = load_pem_public_key((tmp_path / "plane.pub").read_bytes())
    assert isinstance(public, Ed25519PublicKey)
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert signer.id == hashlib.sha256(raw).hexdigest()[:16]
    manifest = manifest_for("n1", (("a", "1"),), 17, T0)
    signed = signer.sign_manifest(manifest)
    assert plane_pb2.Manifest.FromString(signed.content) == manifest
    assert signed.key == signer.id
    public.verify(signed.signature, b"exeat manifest v1\0" + signed.content)
    command = signer.sign_command(plane_pb2.Command(id="x", node="n1"))
    public.verify(command.signature, b"exeat command v1\0" + command.content)
    with pytest.raises(InvalidSignature):
        public.verify(command.signature, b"exeat manifest v1\0" + command.content)
    assert PlaneSigner.of(tmp_path / "plane.key").sign_manifest(manifest) == signed
    assert (tmp_path / "plane.key").stat().st_mode & 0o777 == 0o600


def test_without_a_key_nothing_is_signed() -> None:
    """Agents that have one refuse it, so that a plane may know beforehand."""
    signer = PlaneSigner()
    signed = signer.sign_manifest(plane_pb2.Manifest(node="n"))
    assert (signed.signature, signed.key, signer.id) == (b"", "", "")
    assert signer.is_known_to(plane_pb2.Hello())
    assert not signer.is_known_to(plane_pb2.Hello(keys=["0123456789abcdef"]))


def test_an_agent_takes_what_is_signed_by_a_key_of_its_own(tmp_path: Path) -> None:
    """Or by any, where it has none."""
    signer = PlaneSigner.of(tmp_path / "plane.key")
    assert signer.is_known_to(plane_pb2.Hello(keys=["0123456789abcdef", signer.id]))
    assert not signer.is_known_to(plane_pb2.Hello(keys=["0123456789abcdef"]))
    (tmp_path / "wrong.key").write_text("no key")
    with pytest.raises(ExeatError, match="no Ed25519 key"):
        PlaneSigner.of(tmp_path / "wrong.key")
