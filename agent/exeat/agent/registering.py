"""What a registration says, read and judged."""

import time

from exeat.agent.shelf import Shelf
from exeat.agent.targets import said_of
from exeat.agent.wishes import Registration
from exeat.control.peer import Peer
from exeat.core.policy_file import read_policy
from exeat.errors import PolicyError, Refused, StatusWord
from exeat.v1 import agent_pb2 as pb

_LABELS_MAX, _LABEL_MAX = 64, 253
_SECOND = 10**9


def registration_of(
    name: str, request: pb.RegisterRequest, peer: Peer, shelf: Shelf
) -> tuple[Registration, tuple[str, ...]]:
    """It, and warnings about its policy. Raises Refused."""
    labels = dict(request.labels)
    if len(labels) > _LABELS_MAX or any(len(text) > _LABEL_MAX for text in (*labels, *labels.values())):
        text = f"at most {_LABELS_MAX} labels of at most {_LABEL_MAX} characters can be kept"
        raise Refused(StatusWord.INVALID, text)
    for wanted in request.policies:
        if wanted not in shelf.in_force:
            raise Refused(StatusWord.NOT_FOUND, f"there is no policy {wanted} in {shelf.directory}")
    warnings: tuple[str, ...] = ()
    if request.policy_text:
        try:
            warnings = read_policy(request.policy_text, f"the policy of {name}").warnings
        except PolicyError as error:
            raise Refused(StatusWord.INVALID, str(error)) from error
    until_ns = time.time_ns() + request.ttl_s * _SECOND if request.ttl_s else 0
    source = request.source if request.source == "run" else "registration"
    policies = tuple(dict.fromkeys(request.policies))
    text, guest = request.policy_text, said_of(request)
    return Registration(name, source, labels, policies, text, until_ns, str(peer), guest), warnings
