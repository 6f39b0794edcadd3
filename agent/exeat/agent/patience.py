"""With a plane that sends what must be refused, again and again: each answer takes longer."""

from hashlib import sha256

from google.protobuf.message import DecodeError

from exeat.v1 import plane_pb2 as pb

_LONGEST_S = 60.0
_FREE = 8  # refusals in a row of something else each time: somebody tries until it is right
_PARSED_MAX = 64 << 10  # bytes of a manifest of some hundred policies


class Patience:
    """Outlives connections: a plane that comes back with the same is the same plane."""

    def __init__(self) -> None:
        self._refused = b""
        self._times = 0  # that this was refused
        self._in_a_row = 0  # refusals of whatever it was

    def wait_s(self, push: pb.PolicyPush) -> float:
        """How long to wait before it is judged: not at all, unless it was refused, or all was for long."""
        is_same = self._times > 0 and _content_of(push) == self._refused
        steps = max(self._times if is_same else 0, self._in_a_row - _FREE)
        return min(2.0 ** min(steps - 1, 10), _LONGEST_S) if steps > 0 else 0.0

    def note(self, push: pb.PolicyPush, is_accepted: bool) -> None:
        """What became of it."""
        if is_accepted:
            self._times = self._in_a_row = 0
            return
        content = _content_of(push)
        self._times = self._times + 1 if content == self._refused else 1
        self._in_a_row += 1
        self._refused = content


def _content_of(push: pb.PolicyPush) -> bytes:
    """What it would bring. A new number or a later time is no news; documents that came along are."""
    digest = sha256()
    content = push.manifest.content
    try:
        manifest = pb.Manifest.FromString(content if len(content) <= _PARSED_MAX else b"")
        for one in manifest.policies:
            digest.update(f"{one.name}\0{one.revision}\0".encode())
        digest.update(manifest.node.encode() or content)
    except DecodeError:
        digest.update(content)
    for document in push.documents:
        digest.update(f"\0{document.revision}\0{len(document.text)}".encode())
    return digest.digest()
