"""With a plane that sends again and again what was refused: each answer takes longer."""

from hashlib import sha256

from google.protobuf.message import DecodeError

from exeat.v1 import plane_pb2 as pb

_LONGEST_S = 60.0


class Patience:
    """Outlives connections: a plane that comes back with the same is the same plane."""

    def __init__(self) -> None:
        self._refused = b""
        self._times = 0

    def wait_s(self, push: pb.PolicyPush) -> float:
        """How long to wait before it is judged: not at all, if it is not what was refused last."""
        if not self._times or _content_of(push) != self._refused:
            return 0.0
        return min(2.0 ** (self._times - 1), _LONGEST_S)

    def note(self, push: pb.PolicyPush, is_accepted: bool) -> None:
        """What became of it."""
        if is_accepted:
            self._times = 0
            return
        content = _content_of(push)
        self._times = self._times + 1 if content == self._refused else 1
        self._refused = content


def _content_of(push: pb.PolicyPush) -> bytes:
    """What it would bring. A new number or a later time is no news; documents that came along are."""
    digest = sha256()
    try:
        manifest = pb.Manifest.FromString(push.manifest.content)
        for one in manifest.policies:
            digest.update(f"{one.name}\0{one.revision}\0".encode())
        digest.update(manifest.node.encode())
    except DecodeError:
        digest.update(push.manifest.content)
    for document in push.documents:
        digest.update(f"\0{document.revision}\0{len(document.text)}".encode())
    return digest.digest()
