"""What goes wrong between agent and plane, in a sentence for `exeat status`."""

import re

import grpc

from exeat.plane_access import Endpoint, PlaneAccess

_TEXT_MAX = 1000
# What gRPC says, and what it means. The first that fits. `{host}`: the name that the plane must have.
_MEANINGS = (
    (r"CERTIFICATE_VERIFY_FAILED.*expired", "its certificate has expired, or a clock is wrong: renew it"),
    (r"CERTIFICATE_VERIFY_FAILED|certificate signature failure",
     "its certificate is not vouched for by {ca}: is this the plane?"),
    (r"Hostname Verification|is not in peer certificate", "its certificate is not for {host}: is this the plane?"),
    (r"connect.*Socket closed|(?i:certificate.required|bad.certificate|unknown.ca|certificate.(unknown|expired))",
     "it hung up: is {certificate} still valid, and of an authority that the plane trusts?"),
    (r"WRONG_VERSION_NUMBER|Cannot check peer|HTTP_REQUEST|PACKET_LENGTH_TOO_LONG",
     "what answers there does not speak TLS: name the plane's door for agents, port 9470 by default"),
    (r"Endpoint closing", "what answers there does not begin TLS: is this the plane?"),
    (r"(?i)handshake", "there is no TLS with what answers there: {details}"),
    (r"Internal error from Core", "the conversation broke off in the middle of a message"),
    (r"(?i)connection refused", "nobody listens there: does the plane run?"),
    (r"(?i)DNS resolution failed|Domain name not found|Name or service not known|Could not contact DNS",
     "its name is not known: {details}"),
    (r"(?i)timed? ?out|deadline", "it does not answer"),
    (r"(?i)network is unreachable|no route to host", "there is no way to it: {details}"),
)  # fmt: skip
_STATUSES = {
    grpc.StatusCode.UNAUTHENTICATED: "it does not know this node by {certificate}: {details}",
    grpc.StatusCode.PERMISSION_DENIED: "it does not let this node in: {details}",
    grpc.StatusCode.FAILED_PRECONDITION: "the two have no protocol in common: {details}: update the older one",
    grpc.StatusCode.ALREADY_EXISTS: "another agent has connected as this node: {details}",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "a message is too large, or there are too many: {details}",
    grpc.StatusCode.INVALID_ARGUMENT: "it does not understand this agent: {details}",
    grpc.StatusCode.UNIMPLEMENTED: "what answers there is no plane of exeat: name the plane's door for agents",
    grpc.StatusCode.DEADLINE_EXCEEDED: "it does not answer",
    grpc.StatusCode.OK: "it has ended the conversation",
    grpc.StatusCode.CANCELLED: "the conversation was broken off",
}


def sentence_of(code: grpc.StatusCode, details: str, endpoint: Endpoint, access: PlaneAccess) -> str:
    """Why the plane at an endpoint cannot be talked to."""
    details = "".join(one if one.isprintable() else " " for one in details)[:_TEXT_MAX]
    meaning = _STATUSES.get(code)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL):
        found = (text for pattern, text in _MEANINGS if re.search(pattern, details))
        meaning = next(found, "{details}" if details else f"it answered {code.name}")
    said = (meaning or f"it answered {code.name}: {{details}}").format(
        details=details or "it does not say why",
        host=access.server_name or endpoint.host,
        ca=access.ca,
        certificate=access.certificate,
    )
    return f"plane {endpoint}: {said}"
