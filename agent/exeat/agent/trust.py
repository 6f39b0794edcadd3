"""Whose word about policies and commands is taken on this node: with a key, its owner's alone."""

from pathlib import Path

from exeat.audit.signing import Verifier
from exeat.errors import ExeatError
from exeat.v1 import plane_pb2 as pb


class Trust:
    """The key is read anew each time: it is rarely needed, and may be replaced without a restart."""

    def __init__(self, public_key: Path | None) -> None:
        self._public_key = public_key

    @property
    def key_ids(self) -> tuple[str, ...]:
        """What a plane is told: by which keys it must sign. Raises ExeatError where the key cannot be read."""
        return (Verifier.of(self._public_key).id,) if self._public_key else ()

    def check(self, kind: bytes, what: str, message: pb.Signed) -> None:
        """Raises ExeatError where the message is not to be believed; `what` names it in the sentence."""
        if self._public_key is None:
            return
        verifier = Verifier.of(self._public_key)
        wanted = f"this node takes only what key {verifier.id} has signed"
        if not message.signature:
            raise ExeatError(f"{what} is not signed, and {wanted}")
        if verifier.has_signed(kind + message.content, message.signature):
            return
        if message.key and message.key != verifier.id:
            raise ExeatError(f"{what} is signed by key {message.key[:64]!r}, and {wanted}")
        raise ExeatError(f"{what} is not what key {verifier.id} has signed: it was altered, or signed by another key")
