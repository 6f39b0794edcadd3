"""A plane's word about what shall hold, judged: all of it is believed, or nothing. Pure but for the key's file.

A *bundle* is a manifest and the documents that it names.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256

from google.protobuf.message import DecodeError

from exeat.agent.trust import Trust
from exeat.audit.signing import MANIFEST
from exeat.core.compile_rules import RankedRules
from exeat.core.policy_file import read_policy
from exeat.errors import ExeatError, PolicyError
from exeat.model.policy import Policy
from exeat.v1 import plane_pb2 as pb

DOCUMENT_MAX = 8 << 20
POLICIES_MAX = 10_000
MANIFEST_MAX = 2 << 20  # bytes: so many policies with the longest names have 1.4 million
_REVISION = re.compile(r"[0-9a-f]{64}")
_SHOWN_MAX = 5
_NAME_SHOWN = 80
_SECOND = 10**9
_TIME_END_S = 253_402_300_800  # the year 10000, where a Timestamp ends


@dataclass(frozen=True, slots=True)
class Fault:
    """Why not."""

    policy: str  # empty: it is about the push
    text: str


class PushRefused(ExeatError):
    """Nothing of it holds. `wants_all`: the agent lacks documents."""

    def __init__(self, faults: Sequence[Fault], *, wants_all: bool = False) -> None:
        super().__init__("\n".join(fault.text for fault in faults))
        self.faults = tuple(faults)
        self.wants_all = wants_all


@dataclass(frozen=True, slots=True)
class Document:
    """One policy, as it travelled and as it was read."""

    name: str
    revision: str
    text: str | None  # None: it is on disk, and fills no memory
    policy: Policy
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was believed."""

    signed: pb.Signed
    serial: int
    expires_ns: int
    documents: tuple[Document, ...]  # by name
    taken_ns: int  # when this agent took it

    @property
    def holdings(self) -> dict[str, str]:
        """Revisions by name."""
        return {document.name: document.revision for document in self.documents}

    def without_texts(self) -> "Bundle":
        """Once it is on disk."""
        return replace(self, documents=tuple(replace(document, text=None) for document in self.documents))


def judge(push: pb.PolicyPush, node: str, trust: Trust, before: Bundle | None, now_ns: int) -> Bundle:
    """The push as a bundle. Raises PushRefused with every fault. `now_ns`: by the wall clock."""
    manifest = open_manifest(push.manifest, node, trust)
    expires_ns = manifest.expires.ToNanoseconds()
    if expires_ns <= now_ns:
        text = f"the manifest has expired, at {shown_time(expires_ns)}; by this node's clock it is {shown_time(now_ns)}"
        raise PushRefused([Fault("", text)])
    if before and manifest.serial < before.serial:
        text = f"the manifest has serial {manifest.serial}, which is older than {before.serial}, the one in force"
        raise PushRefused([Fault("", text)])
    held = {document.revision: document for document in before.documents} if before else {}
    texts = _texts_of(push.documents)
    lacking = [one.name for one in manifest.policies if one.revision not in held and one.revision not in texts]
    if lacking:
        text = f"neither held nor sent: {_several(lacking)}; send every document"
        raise PushRefused([Fault("", text)], wants_all=True)
    documents, faults = read_documents(manifest, held, texts)
    if faults:
        raise PushRefused(faults)
    return Bundle(push.manifest, manifest.serial, expires_ns, documents, now_ns)


def open_manifest(signed: pb.Signed, node: str, trust: Trust) -> pb.Manifest:
    """What a manifest says, if it is to be believed at all. Raises PushRefused."""
    if len(signed.content) > MANIFEST_MAX:
        text = f"the manifest has {len(signed.content)} bytes, of which at most {MANIFEST_MAX} are read"
        raise PushRefused([Fault("", text)])
    try:
        trust.check(MANIFEST, "the manifest", signed)
        manifest = pb.Manifest.FromString(signed.content)
    except DecodeError:
        raise PushRefused([Fault("", "what was sent as a manifest is none")]) from None
    except PushRefused:
        raise
    except ExeatError as error:
        raise PushRefused([Fault("", str(error))]) from error
    if why := _why_no_manifest(manifest, node):
        raise PushRefused([Fault("", why)])
    return manifest


def read_documents(
    manifest: pb.Manifest, held: Mapping[str, Document], texts: Mapping[str, str]
) -> tuple[tuple[Document, ...], list[Fault]]:
    """The documents of a manifest, by name, and what is wrong with the others."""
    documents: list[Document] = []
    faults: list[Fault] = []
    for one in sorted(manifest.policies, key=lambda one: one.name):
        document = held.get(one.revision)
        try:
            if document is None:
                document = _read(one.name, one.revision, texts[one.revision])
            if document.name != one.name:
                text = f"{_quoted(one.name)}: its document is named {document.name}: name both alike"
                raise PolicyError([text])
        except PolicyError as error:
            faults += [Fault(one.name, text) for text in error.problems]
        else:
            documents.append(document)
    return tuple(documents), faults


def _why_no_manifest(manifest: pb.Manifest, node: str) -> str:
    names = [one.name for one in manifest.policies]
    if manifest.node != node:
        return f"the manifest is for node {_quoted(manifest.node)}, and this is {_quoted(node)}"
    if not 0 < manifest.expires.seconds < _TIME_END_S or not 0 <= manifest.expires.nanos < _SECOND:
        return "the manifest does not say until when it may be taken"
    if not manifest.serial:
        return "the manifest has no serial: number manifests from 1 on"
    if len(names) > POLICIES_MAX:
        return f"the manifest names {len(names)} policies, of which a node takes {POLICIES_MAX}"
    if len(set(names)) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        return f"the manifest names policies more than once: {_several(twice)}"
    bad = [one.name for one in manifest.policies if not _REVISION.fullmatch(one.revision)]
    if bad:
        return f"the manifest has no SHA-256 in 64 small hexadecimal digits for {_several(bad)}"
    return ""


def _texts_of(documents: Iterable[pb.PolicyDocument]) -> dict[str, str]:
    """By revision. Raises PushRefused for one that is not what its hash says, or is too large."""
    texts = {}
    for document in documents:
        raw = document.text.encode()
        if len(raw) > DOCUMENT_MAX:
            text = f"document {document.revision[:12]} has {len(raw)} bytes, of which at most {DOCUMENT_MAX} are taken"
            raise PushRefused([Fault("", text)])
        if sha256(raw).hexdigest() != document.revision:
            text = f"document {_quoted(document.revision[:12])} is not what its SHA-256 says: it was altered on its way"
            raise PushRefused([Fault("", text)])
        texts[document.revision] = document.text
    return texts


def _read(name: str, revision: str, text: str) -> Document:
    reading = read_policy(text, name)
    try:
        RankedRules.of(reading.policy)
    except ValueError as error:
        raise PolicyError([f"{name}: {error}"]) from error
    return Document(reading.policy.name, revision, text, reading.policy, reading.warnings)


def _several(names: Sequence[str]) -> str:
    shown = ", ".join(_quoted(name) for name in names[:_SHOWN_MAX])
    return shown + (f" and {len(names) - _SHOWN_MAX} more" if len(names) > _SHOWN_MAX else "")


def _quoted(text: str) -> str:
    """A text of somebody else's in a sentence of ours."""
    text = text[:_NAME_SHOWN]
    return text if text.isprintable() and text and " " not in text else repr(text)


def shown_time(wall_ns: int) -> str:
    """As people read it."""
    return f"{datetime.fromtimestamp(wall_ns // _SECOND, UTC):%Y-%m-%dT%H:%M:%SZ}"
