"""Signs what agents are told, so that whoever gets between, or into the store, can tell them nothing.

Every replica needs the same key. Without one, everything goes out unsigned, which agents with a key refuse.
"""

import base64
from pathlib import Path

from exeat.audit.keys import SigningKey
from exeat.audit.signing import COMMAND, MANIFEST
from exeat.v1 import plane_pb2

_ID_DIGITS = 16


class PlaneSigner:
    """The plane's key, if it has one."""

    def __init__(self, key: SigningKey | None = None) -> None:
        self._key = key

    @classmethod
    def of(cls, path: Path | None) -> "PlaneSigner":
        """With the key in a file, made if there is none; its public half, for the agents, is put beside it as *.pub."""
        return cls(None if path is None else SigningKey.of(path))

    @property
    def id(self) -> str:
        """The key's identifier; empty: nothing is signed."""
        return self._key.id[:_ID_DIGITS] if self._key else ""

    def is_known_to(self, hello: plane_pb2.Hello) -> bool:
        """Whether an agent can take what is signed, or not signed, here."""
        return not hello.keys or self.id in hello.keys

    def sign_manifest(self, manifest: plane_pb2.Manifest) -> plane_pb2.Signed:
        """For a push."""
        return self._signed(MANIFEST, manifest.SerializeToString())

    def sign_command(self, command: plane_pb2.Command) -> plane_pb2.Signed:
        """For its node."""
        return self._signed(COMMAND, command.SerializeToString())

    def _signed(self, what: bytes, content: bytes) -> plane_pb2.Signed:
        if self._key is None:
            return plane_pb2.Signed(content=content)
        signature = base64.b64decode(self._key.sign(what + content))
        return plane_pb2.Signed(content=content, signature=signature, key=self.id)
