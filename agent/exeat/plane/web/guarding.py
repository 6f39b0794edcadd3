"""Between the door and the pages: nobody gets by without being somebody, having the role, and, to change something, a
form of ours. An error becomes a page with its sentence."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from exeat.errors import ExeatError, PolicyError, Refused, StatusWord
from exeat.plane.people import Role
from exeat.plane.store.database import StoreError
from exeat.plane.web.console import Console
from exeat.plane.web.forms import read_form
from exeat.plane.web.rendering import render
from exeat.plane.web.sign_in import csrf_of, refuse_forged, sign_out, to_sign_in, who
from exeat.plane.web.visit import Visit, theme_of

Answer = Callable[[Visit], Awaitable[Response]]

_LOG = logging.getLogger("exeat.plane")
_STATUS = {
    StatusWord.INVALID: 400,
    StatusWord.NOT_FOUND: 404,
    StatusWord.PRECONDITION: 409,
    StatusWord.UNAVAILABLE: 503,
    StatusWord.PERMISSION: 403,
}
_HEADINGS = {
    400: "That does not work",
    403: "Not with this role",
    404: "Not found",
    405: "Not this way",
    409: "Not now",
    500: "The plane failed",
    503: "Not at the moment",
}


@dataclass(frozen=True, slots=True)
class Page:
    """A path, what answers there, and who may ask."""

    path: str
    answer: Answer
    is_change: bool = False  # POST, by a form
    needs: Role = Role.VIEWER


def route(console: Console, page: Page) -> Route:
    """The page behind the guard."""

    async def run(request: Request) -> Response:
        try:
            return await answer(request)
        except (ExeatError, HTTPException, ClientDisconnect):
            raise
        except Exception:  # noqa: BLE001  # a bug in one page is one page's failure; logged
            _LOG.exception("%s %s", request.method, request.url.path)
            return error_page(console, request, 500, "exeat failed: the plane's log says how")

    async def answer(request: Request) -> Response:
        session = await who(console, request)
        if session is None:
            if page.is_change:
                sentence = "you are signed out, and nothing was changed: sign in and do it again"
                return error_page(console, request, 401, sentence)
            return to_sign_in(request)
        form = await read_form(request) if page.is_change else {}
        if page.is_change:
            refuse_forged(console, request, session, form.get("csrf", ""))
        session.person.need(page.needs)
        csrf = csrf_of(console, session)
        can_sign_out = session.ends_s > 0
        return await page.answer(Visit(console, request, session.person, csrf, can_sign_out, form))

    return Route(page.path, run, methods=["POST" if page.is_change else "GET"])


def sign_out_route(console: Console) -> Route:
    """POST /sign-out."""

    async def run(request: Request) -> Response:
        session = await who(console, request)
        if session is None:
            return to_sign_in(request)
        refuse_forged(console, request, session, (await read_form(request)).get("csrf", ""))
        return await sign_out(console, session)

    return Route("/sign-out", run, methods=["POST"])


def error_page(console: Console, request: Request, status: int, sentence: str) -> Response:
    """A page for it; for htmx the sentence alone."""
    values: dict[str, Any] = {
        "status": status,
        "heading": _HEADINGS.get(status, "That does not work"),
        "sentences": sentence.splitlines(),
        "plane_name": console.name,
        "theme": theme_of(request),
    }
    template = "error_part.html" if request.headers.get("hx-request") == "true" else "error.html"
    return HTMLResponse(render(template, values), status)


def error_answers(console: Console) -> dict[Any, Callable[[Request, Any], Awaitable[Response]]]:
    """For Starlette: which error becomes which page."""

    async def on_purpose(request: Request, error: Exception) -> Response:
        status = 400
        if isinstance(error, Refused):
            status = _STATUS.get(error.word, 400)
        elif isinstance(error, StoreError):
            _LOG.warning("%s: %s", request.url.path, error)
            console.plane.counts.store_errors["read" if request.method == "GET" else "write"] += 1
            return error_page(console, request, 503, "the plane's store does not answer: try again in a moment")
        elif not isinstance(error, PolicyError):
            _LOG.warning("%s: %s", request.url.path, error)
        return error_page(console, request, status, str(error))

    async def by_http(request: Request, error: HTTPException) -> Response:
        sentence = "there is no such page" if error.status_code == 404 else error.detail
        return error_page(console, request, error.status_code, sentence)

    return {ExeatError: on_purpose, HTTPException: by_http}
