"""The API's calls about tokens, and about oneself."""

from typing import Any

from exeat.core.verdict_text import time_text
from exeat.errors import Refused, StatusWord
from exeat.plane import people
from exeat.plane.api.calls import Asked, Call
from exeat.plane.people import Role, TokenWish
from exeat.plane.store.database import Tx

_NEVER = "never"


def _whoami(_: Tx, asked: Asked) -> Any:
    return {"name": asked.person.name, "role": asked.person.role.value, "via": asked.person.via}


def _tokens(tx: Tx, asked: Asked) -> Any:
    return {
        "tokens": [
            {
                "name": one.name,
                "role": one.role.value,
                "made": time_text(one.made_ns),
                "expires": time_text(one.expires_ns) if one.expires_ns else None,
                "used": time_text(one.used_ns) if one.used_ns else None,
                "is_expired": one.is_expired(asked.now_ns),
            }
            for one in people.tokens(tx)
        ]
    }


def _add(tx: Tx, asked: Asked) -> Any:
    body = asked.body
    role = body.text("role")
    if role not in tuple(Role):
        raise Refused(StatusWord.INVALID, f"`role` of the body is none of {', '.join(Role)}")
    name = body.text("name")
    is_endless = body.text("expires", "90d") == _NEVER
    expires_ns = 0 if is_endless else round(body.end("expires", asked.now_ns, "90d").timestamp()) * 10**9
    return {"name": name, "token": people.add(tx, TokenWish(name, Role(role), expires_ns), asked.now_ns)}


def _remove(tx: Tx, asked: Asked) -> Any:
    people.remove(tx, asked.path["name"])
    return {"removed": asked.path["name"]}


CALLS = {
    ("GET", "/whoami"): Call(Role.VIEWER, _whoami),
    ("GET", "/tokens"): Call(Role.ADMIN, _tokens),
    ("POST", "/tokens"): Call(Role.ADMIN, _add, is_writing=True, has_body=True),
    ("DELETE", "/tokens/{name}"): Call(Role.ADMIN, _remove, is_writing=True),
}
