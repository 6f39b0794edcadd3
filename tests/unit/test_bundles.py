"""What a plane sends is believed as a whole or not at all, and what was believed outlives the agent on disk."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exeat.agent.bundle_files import BundleFiles
from exeat.agent.bundles import DOCUMENT_MAX, Bundle, PushRefused, judge
from exeat.agent.trust import Trust
from exeat.v1 import plane_pb2 as pb
from unit.fake_plane import NODE, manifest, push, revision, signed
from unit.fleet_words import policy, public_key

TEXTS = {"alpha": policy("alpha"), "beta": policy("beta", "b.shop.test")}


def take(sent: pb.PolicyPush, trust: Trust, before: Bundle | None = None) -> Bundle:
    """Judged now, by the node for which it is."""
    return judge(sent, NODE, trust, before, time.time_ns())


def refusal(sent: pb.PolicyPush, trust: Trust, before: Bundle | None = None) -> PushRefused:
    """Why it is not taken."""
    with pytest.raises(PushRefused) as caught:
        take(sent, trust, before)
    assert all(fault.text.isprintable() and len(fault.text) < 1000 for fault in caught.value.faults)
    return caught.value


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    """A node that was given a key."""
    return Trust(public_key(tmp_path))


def test_what_is_signed_and_whole_is_taken(trust: Trust) -> None:
    """With its policies as they were read."""
    bundle = take(push(TEXTS, 17), trust)
    assert bundle.serial == 17
    assert bundle.holdings == {name: revision(text) for name, text in TEXTS.items()}
    assert [str(document.policy.rules[0].hosts[0]) for document in bundle.documents] == ["a.shop.test", "b.shop.test"]


def test_without_a_key_it_may_be_unsigned() -> None:
    """TLS says who sent it."""
    assert take(push(TEXTS, 1, seed=None), Trust(None)).serial == 1


def test_with_a_key_only_its_owners_word_counts(trust: Trust) -> None:
    """Each with a sentence of its own."""
    assert "is not signed" in str(refusal(push(TEXTS, 1, seed=None), trust))
    assert "is signed by key" in str(refusal(push(TEXTS, 1, seed=b"\7" * 32), trust))
    altered = push(TEXTS, 1)
    altered.manifest.content = manifest({"alpha": TEXTS["alpha"]}, 1).SerializeToString()
    assert "was altered" in str(refusal(altered, trust))
    claimed = push(TEXTS, 1, seed=b"\7" * 32)
    claimed.manifest.key = push(TEXTS, 1).manifest.key
    assert "was altered, or signed by another key" in str(refusal(claimed, trust))
    for cut in (b"", b"\0", bytes(64), bytes(65)):
        short = push(TEXTS, 1)
        short.manifest.signature = cut
        refusal(short, trust)
    take(push(TEXTS, 1), trust)  # the twin: unaltered, it is taken


def test_a_command_is_no_manifest_though_its_bytes_are(trust: Trust) -> None:
    """What stands before the content keeps the two apart."""
    sent = push(TEXTS, 1)
    sent.manifest.CopyFrom(signed(sent.manifest.content, what=b"exeat command v1\0"))
    assert "was altered" in str(refusal(sent, trust))


def test_a_key_that_cannot_be_read_lets_nothing_in(tmp_path: Path) -> None:
    """Not even what would be good."""
    path = public_key(tmp_path)
    trust = Trust(path)
    take(push(TEXTS, 1), trust)
    path.write_text("no key")
    assert "no public Ed25519 key" in str(refusal(push(TEXTS, 1), trust))
    path.unlink()
    assert "No such file" in str(refusal(push(TEXTS, 1), trust))


def test_a_manifest_is_for_its_node_and_its_time(trust: Trust) -> None:
    """Neither another node's nor yesterday's."""
    assert "is for node laxer.test, and this is node-1.test" in str(refusal(push(TEXTS, 1, node="laxer.test"), trust))
    expired = str(refusal(push(TEXTS, 1, valid_s=-5), trust))
    assert "has expired, at 20" in expired
    assert "by this node's clock it is 20" in expired
    timeless = pb.PolicyPush(manifest=signed(pb.Manifest(node=NODE, serial=1).SerializeToString()))
    assert "until when" in str(refusal(timeless, trust))


def test_an_older_one_does_not_come_back(trust: Trust) -> None:
    """It stays signed for ever, and would bring back what was closed. The same one again is no rollback."""
    before = take(push(TEXTS, 17), trust)
    assert "serial 16, which is older than 17" in str(refusal(push(TEXTS, 16), trust, before))
    assert take(push(TEXTS, 17), trust, before).serial == 17
    assert take(push(TEXTS, 18), trust, before).serial == 18
    assert "no serial" in str(refusal(push(TEXTS, 0), trust))


def test_documents_that_are_held_need_not_come_again(trust: Trust) -> None:
    """And are not read again; those that are neither held nor sent are asked for."""
    before = take(push(TEXTS, 1), trust).without_texts()
    lean = push({**TEXTS, "gamma": policy("gamma")}, 2)
    del lean.documents[:2]
    bundle = take(lean, trust, before)
    assert bundle.documents[0].policy is before.documents[0].policy
    assert bundle.documents[2].name == "gamma"
    lacking = refusal(lean, trust)
    assert lacking.wants_all
    assert "neither held nor sent: alpha, beta" in str(lacking)


def test_a_document_is_what_its_hash_says(trust: Trust) -> None:
    """An altered document is refused even where the manifest is good."""
    sent = push(TEXTS, 1)
    sent.documents[0].text = sent.documents[0].text.replace("a.shop.test", "a.evil.test")
    assert "altered on its way" in str(refusal(sent, trust))
    named = push(TEXTS, 1)
    named.documents[0].revision = "../../etc/passwd"
    assert "altered on its way" in str(refusal(named, trust))


def test_one_bad_policy_refuses_all_and_every_fault_is_told(trust: Trust) -> None:
    """By policy, line and sentence, as of a file."""
    texts = {
        "alpha": policy("alpha").replace("hosts:", "hots:"),
        "beta": policy("beta"),
        "gamma": policy("gamma").replace("egress", "agress").replace("owner", "owmer"),
    }
    refused = refusal(push(texts, 1), trust)
    assert {fault.policy for fault in refused.faults} == {"alpha", "gamma"}
    assert any(fault.text.startswith("alpha:9: `hots` is no field") for fault in refused.faults)
    assert len([fault for fault in refused.faults if fault.policy == "gamma"]) >= 2
    assert not refused.wants_all


def test_a_field_of_a_newer_policy_is_refused_not_passed_over(trust: Trust) -> None:
    """What decides about traffic is never ignored; what is new in a message is."""
    newer = policy("alpha").replace("egress:", "geofence: {countries: [de]}\n  egress:")
    assert "`geofence` is no field" in str(refusal(push({"alpha": newer}, 1), trust))
    made = manifest(TEXTS, 5).SerializeToString() + b"\xfa\x3e\x03new"  # field 1007
    sent = push(TEXTS, 5)
    sent.manifest.CopyFrom(signed(made))
    assert take(sent, trust).serial == 5


def test_names_are_those_of_the_documents_and_each_stands_once(trust: Trust) -> None:
    """Else nobody could say which one holds."""
    assert "its document is named alpha" in str(refusal(push({"other": TEXTS["alpha"]}, 1), trust))
    twice = manifest({"alpha": TEXTS["alpha"]}, 1)
    twice.policies.append(twice.policies[0])
    sent = push(TEXTS, 1)
    sent.manifest.CopyFrom(signed(twice.SerializeToString()))
    assert "more than once: alpha" in str(refusal(sent, trust))


@pytest.mark.parametrize("bad", ["", "ABC", "../" * 20, "g" * 64, "A" * 64])
def test_a_revision_is_a_hash(trust: Trust, bad: str) -> None:
    """It becomes a file's name."""
    made = manifest(TEXTS, 1)
    made.policies[0].revision = bad
    sent = push(TEXTS, 1)
    sent.manifest.CopyFrom(signed(made.SerializeToString()))
    assert "no SHA-256 in 64 small hexadecimal digits" in str(refusal(sent, trust))


def test_a_document_has_a_greatest_size(trust: Trust) -> None:
    """Before it is read."""
    large = policy("alpha") + "#" * DOCUMENT_MAX
    assert f"of which at most {DOCUMENT_MAX} are taken" in str(refusal(push({"alpha": large}, 1), trust))


@given(content=st.binary(max_size=200), key=st.booleans())
@settings(max_examples=200, deadline=None)
def test_whatever_is_sent_it_is_refused_with_a_sentence(tmp_path_factory: Any, content: bytes, key: bool) -> None:
    """Bytes that are no manifest, with a good signature or without one."""
    trust = Trust(public_key(tmp_path_factory.getbasetemp())) if key else Trust(None)
    refused = refusal(pb.PolicyPush(manifest=signed(content)), trust)
    assert len(refused.faults) == 1


# On disk


@pytest.fixture
def files(tmp_path: Path) -> BundleFiles:
    """An empty directory of them."""
    return BundleFiles(tmp_path / "plane")


def test_what_was_kept_is_believed_again(tmp_path: Path, files: BundleFiles, trust: Trust) -> None:
    """By another agent, and also when it has expired meanwhile: what is in force stays so."""
    assert files.load(NODE, trust).bundle is None
    assert files.load(NODE, trust).complaint == ""
    files.save(take(push(TEXTS, 17, valid_s=0.2), trust))
    time.sleep(0.3)
    kept = BundleFiles(tmp_path / "plane").load(NODE, trust)
    assert kept.complaint == ""
    assert kept.bundle is not None
    assert (kept.bundle.serial, list(kept.bundle.holdings)) == (17, ["alpha", "beta"])


def test_only_documents_of_the_manifest_stay(tmp_path: Path, files: BundleFiles, trust: Trust) -> None:
    """And those whose text is in memory no more are on disk already."""
    first = take(push(TEXTS, 1), trust)
    files.save(first)
    second = take(push({"beta": TEXTS["beta"]}, 2), trust, first.without_texts())
    files.save(second)
    assert [path.name for path in (tmp_path / "plane" / "documents").iterdir()] == [revision(TEXTS["beta"])]
    kept = BundleFiles(tmp_path / "plane").load(NODE, trust)
    assert kept.bundle is not None
    assert kept.bundle.holdings == second.holdings


@pytest.mark.parametrize("damage", ["manifest", "half", "empty", "document", "gone", "node", "key"])
def test_what_was_altered_on_disk_is_not_believed(
    tmp_path: Path, files: BundleFiles, trust: Trust, damage: str
) -> None:
    """Neither enforced nor forgotten: a complaint says so, so that nothing is opened by its absence."""
    files.save(take(push(TEXTS, 17), trust))
    manifest_file = tmp_path / "plane" / "manifest"
    document = tmp_path / "plane" / "documents" / revision(TEXTS["alpha"])
    raw = manifest_file.read_bytes()
    node = NODE
    if damage == "manifest":
        manifest_file.write_bytes(raw.replace(b"alpha", b"alpaa"))
    elif damage == "half":
        manifest_file.write_bytes(raw[: len(raw) // 2])
    elif damage == "empty":
        manifest_file.write_bytes(b"")
    elif damage == "document":
        document.write_text(document.read_text().replace("a.shop.test", "a.evil.test"))
    elif damage == "gone":
        document.unlink()
    elif damage == "node":
        node = "renamed.test"
    else:
        public_key(tmp_path, b"\7" * 32)
    kept = BundleFiles(tmp_path / "plane").load(node, trust)
    assert "can be used" in kept.complaint or "cannot be used" in kept.complaint
    assert "a.evil.test" not in str(kept.bundle)
    assert kept.bundle is None or list(kept.bundle.holdings) == ["beta"]
    (tmp_path / "again").mkdir()
    again = BundleFiles(tmp_path / "again")
    again.save(take(push(TEXTS, 17), Trust(None)))
    assert again.load(NODE, Trust(None)).complaint == ""  # the twin: untouched, it is believed


def test_a_full_disk_leaves_the_bundle_before(tmp_path: Path, files: BundleFiles, trust: Trust) -> None:
    """The manifest is changed last."""
    files.save(take(push({"beta": TEXTS["beta"]}, 1), trust))
    documents = tmp_path / "plane" / "documents"
    blocked = documents / f".{revision(TEXTS['alpha'])}.{os.getpid()}"
    blocked.mkdir()  # where the draft would be written
    with pytest.raises(OSError, match="directory"):
        files.save(take(push(TEXTS, 2), trust))
    kept = BundleFiles(tmp_path / "plane").load(NODE, trust)
    assert kept.bundle is not None
    assert (kept.bundle.serial, kept.complaint) == (1, "")
    blocked.rmdir()
    files.save(take(push(TEXTS, 2), trust))
    again = BundleFiles(tmp_path / "plane").load(NODE, trust).bundle
    assert again is not None
    assert again.serial == 2
