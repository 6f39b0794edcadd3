"""What every call of the JSON API shares: who asks, what comes in, in which transaction it is done, and how it fails.

A bearer token and nothing else says who asks. A cookie is never looked at, so no page in a browser can make somebody's
browser ask for it.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from exeat.errors import ExeatError, PolicyError, Refused, StatusWord
from exeat.plane import people
from exeat.plane.api.fields import Given, body_of, query_of
from exeat.plane.api.room import ApiRoom
from exeat.plane.parts import Plane
from exeat.plane.people import Person, Role
from exeat.plane.store.database import Database, StoreError

SMALL = 64 * 1024  # bytes of a body
_STATUSES = {
    StatusWord.INVALID: 400,
    StatusWord.UNAUTHENTICATED: 401,
    StatusWord.PERMISSION: 403,
    StatusWord.NOT_FOUND: 404,
    StatusWord.PRECONDITION: 409,
    StatusWord.EXISTS: 409,
    StatusWord.EXHAUSTED: 413,
    StatusWord.UNAVAILABLE: 503,
}
_NOBODY = StatusWord.UNAUTHENTICATED
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="exeat"'}
_NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_log = logging.getLogger("exeat")


@dataclass(frozen=True, slots=True)
class Asked:
    """One call, read."""

    person: Person
    path: Mapping[str, str]
    query: Given
    body: Given
    now_ns: int

    def refuse_unknown(self) -> None:
        """Raises Refused for fields that nobody asked for: after the last was, and before anything is committed."""
        self.query.refuse_unknown()
        self.body.refuse_unknown()


@dataclass(frozen=True, slots=True)
class Call:
    """What a call needs, and what it does in its transaction. It returns what becomes the answer's JSON.

    `is_own`: it is given the database, and says itself when it begins which transaction.
    """

    role: Role
    act: Callable[[Any, Asked], Any]
    is_writing: bool = False
    is_own: bool = False
    has_body: bool = False
    longest: int = SMALL


Endpoint = Callable[[Request], Awaitable[Response]]


def endpoint(plane: Plane, room: ApiRoom, call: Call) -> Endpoint:
    """For Starlette."""

    async def answer(request: Request) -> Response:
        person = await person_of(plane, room, request, call)
        async with room.for_large(person.name) if call.longest > SMALL else nullcontext():
            asked = await asked_of(plane, request, call, person)
            found = await room.run(_act, plane.database, call, asked)
        return found if isinstance(found, Response) else answered(found)

    return told(answer)


def answered(found: Any, status: int = 200) -> Response:
    """As JSON."""
    return JSONResponse(found, status, headers=_NO_STORE)


def told(answer: Endpoint) -> Endpoint:
    """The same, with every failure as `{"error": "a sentence"}`."""

    async def answer_or_error(request: Request) -> Response:
        try:
            return await answer(request)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except PolicyError as error:
            return _failure(422, str(error), {}, error.problems)
        except Refused as error:
            return _failure(_STATUSES[error.word], str(error), _CHALLENGE if error.word is _NOBODY else {})
        except StoreError as error:
            _log.warning("%s %s: %s", request.method, request.url.path, error)
            return _failure(503, str(error))
        except ExeatError as error:
            _log.warning("%s %s: %s", request.method, request.url.path, error)
            return _failure(500, str(error))
        except Exception:  # noqa: BLE001  # a bug in one call is one call's failure; logged
            _log.exception("%s %s", request.method, request.url.path)
            return _failure(500, "exeat failed: the plane's log says how")

    return answer_or_error


async def person_of(plane: Plane, room: ApiRoom, request: Request, call: Call) -> Person:
    """Who asks, if they may. Raises Refused."""
    header = request.headers.get("authorization", "")
    person = await room.run(_person, plane.database, header, plane.now_ns())
    person.need(call.role)
    return person


async def asked_of(plane: Plane, request: Request, call: Call, person: Person) -> Asked:
    """For what. Raises Refused."""
    body = await body_of(request, call.longest) if call.has_body else Given({}, "the body")
    return Asked(person, request.path_params, query_of(request), body, plane.now_ns())


def is_still_known(plane: Plane, request: Request) -> bool:
    """Whether who asked could still ask: of calls that last."""
    try:
        _person(plane.database, request.headers.get("authorization", ""), plane.now_ns())
    except ExeatError:
        return False
    return True


def _person(database: Database, header: str, now_ns: int) -> Person:
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Refused(_NOBODY, "say who asks: `Authorization: Bearer TOKEN`, with a token of `exeat plane tokens add`")
    with database.reading() as tx:
        person = people.person_of(tx, token.strip(), now_ns)
        is_news = person is not None and people.is_use_news(tx, person.name, now_ns)
    if person is None:
        raise Refused(_NOBODY, "this token is unknown, has ended or was removed: ask an admin for another")
    if is_news:
        with database.writing() as tx:
            people.note_use(tx, person.name, now_ns)
    return person


def _act(database: Database, call: Call, asked: Asked) -> Any:
    if call.is_own:
        return call.act(database, asked)
    with database.writing() if call.is_writing else database.reading() as tx:
        found = call.act(tx, asked)
        asked.refuse_unknown()
        return found


def _failure(
    status: int, sentence: str, headers: Mapping[str, str] | None = None, problems: list[str] | None = None
) -> Response:
    found: dict[str, Any] = {"error": sentence}
    if problems is not None:
        found["problems"] = problems
    return JSONResponse(found, status, headers={**_NO_STORE, **(headers or {})})
