"""The agent's settings of session contexts: whose signature is taken, and for whom they are meant. Read by settings."""

from dataclasses import dataclass
from pathlib import Path

from exeat.core.problems import Problems
from exeat.core.yaml_fields import Fields, read_text
from exeat.plane_access import read_path

_FIELDS = ("keys", "audience")
_AUDIENCE_MAX = 253


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Session contexts on this host."""

    keys: Path = Path("/etc/exeat/sessions.pub")  # public Ed25519 keys in PEM; without the file nobody may sign
    audience: str = "exeat"  # that a token's `aud` must name


def read_sessions(spec: Fields, problems: Problems) -> SessionSettings:
    """The field `sessions`."""
    default = SessionSettings()
    fields = spec.mapping(spec.get("sessions"), "`sessions`", _FIELDS)
    if fields is None:
        return default
    audience = read_text(fields.get("audience"), "`audience`", problems, _AUDIENCE_MAX)
    return SessionSettings(read_path(fields, "keys", default.keys, problems), audience or default.audience)
