"""Session contexts: for whom a workload works, by the signed word of its orchestrator.

A context is never remembered as good. What is kept is the token, and what it says counts as long as the present keys
have signed it and neither clock has passed its end.
"""

import time
from collections.abc import Collection
from hashlib import sha256

from exeat.agent.session_context import SessionContext
from exeat.agent.session_keys import SessionKeys
from exeat.core.session_token import Claims, open_token, read_claims, why_not
from exeat.dns.gate import boot_ns
from exeat.errors import Refused, StatusWord
from exeat.model.identity import Session
from exeat.session_settings import SessionSettings

_REMEMBERED = 8192


class Sessions:
    """Belongs to the control loop."""

    def __init__(self, settings: SessionSettings) -> None:
        self._audience = settings.audience
        self._keys = SessionKeys(settings.keys)
        self._keys.look(is_patient=False)
        self._generation = self._keys.generation  # of the keys by which workloads are settled
        self._said: dict[str, Session | None] = {}  # by token, what it says under the present keys

    @property
    def complaint(self) -> str:
        """What is not as it should be."""
        return self._keys.complaint

    def accept(self, token: str, names: Collection[str], before: SessionContext | None, by: str) -> SessionContext:
        """The context of a workload with these names from now on. Raises Refused."""
        self._keys.look(is_patient=False)
        wall_ns, now_ns = time.time_ns(), boot_ns()
        claims = self._claims_of(token)
        digest = sha256(token.encode()).hexdigest()
        why = why_not(claims, self._audience, names, wall_ns) or _why_no_successor(claims, digest, before)
        if why:
            raise Refused(StatusWord.PRECONDITION, why)
        if before and before.digest == digest:
            return before  # with its end by the boot clock as it was
        until_boot_ns = now_ns + claims.until_ns - wall_ns
        return SessionContext(token, digest, claims.subject, claims.issued_ns, claims.until_ns, until_boot_ns, by)

    def said_by(self, context: SessionContext | None) -> Session | None:
        """What a context says; None: it has ended, or the present keys have not signed it."""
        if context is None or context.is_over(time.time_ns(), boot_ns()):
            return None
        if context.token not in self._said:
            if len(self._said) >= _REMEMBERED:
                self._said.clear()
            self._said[context.token] = self._read(context.token)
        return self._said[context.token]

    def have_keys_changed(self) -> bool:
        """Looks after the file; whether what contexts say may be something else than at the last time."""
        self._keys.look(is_patient=True)
        if self._generation == self._keys.generation:
            return False
        self._generation = self._keys.generation
        self._said.clear()
        return True

    def _read(self, token: str) -> Session | None:
        try:
            claims = self._claims_of(token)
        except Refused:
            return None
        return claims.session if self._audience in claims.audiences else None

    def _claims_of(self, token: str) -> Claims:
        """What it says, if it is signed."""
        try:
            sealed = open_token(token)
            if why := self._keys.why_not_signed(sealed):
                raise Refused(StatusWord.PRECONDITION, why)
            return read_claims(sealed.payload)
        except ValueError as error:
            raise Refused(StatusWord.INVALID, str(error)) from error


def _why_no_successor(claims: Claims, digest: str, before: SessionContext | None) -> str:
    if before is None:
        return ""
    if claims.issued_ns < before.issued_ns:
        return "the token was issued before the one that the workload had last: sign a new one"
    if digest == before.digest and not before.token:
        return "the token has ended already: sign a new one"
    return ""
