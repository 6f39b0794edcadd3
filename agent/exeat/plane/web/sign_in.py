"""Signing in and out: a token in a form, once; after that a cookie. Or a proxy that says who it is."""

import time
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from exeat.errors import Refused, StatusWord
from exeat.plane import people
from exeat.plane.web import sessions
from exeat.plane.web.console import Console
from exeat.plane.web.forms import local_path, read_form, refuse_other_origins
from exeat.plane.web.rendering import render
from exeat.plane.web.sessions import Session
from exeat.plane.web.visit import theme_of

_THEME_S = 365 * 86_400


async def who(console: Console, request: Request) -> Session | None:
    """Whoever asks; None: nobody yet. A proxy's word is before a cookie."""
    peer = _peer(request)
    if not console.host or request.headers.get("host", "").lower() == console.host:
        # By another name a page of another site could be talking to a plane on its reader's own machine.
        person = console.proxies.person_of(peer, request.headers)
        if person is not None:
            return Session(f"oidc {person.name}", person, 0)
    cookie = request.cookies.get(console.cookie)
    return await console.threads.run(_session_of, console, cookie) if cookie else None


def csrf_of(console: Console, session: Session) -> str:
    """What every form of this session carries."""
    return console.seal.mac("form", session.id)


def refuse_forged(console: Console, request: Request, session: Session, token: str) -> None:
    """Raises Refused unless the form was on a page of ours, made for this session."""
    refuse_other_origins(request.headers, hosts_of(console, request))
    if not console.seal.is_mac("form", session.id, token):
        raise Refused(StatusWord.PERMISSION, "this form is of another session: load the page anew; nothing was changed")


def hosts_of(console: Console, request: Request) -> tuple[str, ...]:
    """What we are called."""
    return (console.host or request.headers.get("host", "").lower(),)


def to_sign_in(request: Request) -> Response:
    """For a page that nobody may see who has not signed in."""
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    there = "/sign-in" + ("" if path == "/" else "?" + urlencode({"next": path}))
    if request.headers.get("accept") == "text/event-stream":
        return Response(status_code=204)  # no more events; the page's script looks why
    if request.headers.get("hx-request") == "true":
        return Response(status_code=204, headers={"hx-redirect": there})
    if request.headers.get("sec-fetch-site") == "cross-site" and request.headers.get("sec-fetch-mode") == "navigate":
        # Somebody followed a link from another site, and SameSite=Strict held the cookie back. From a page of ours the
        # browser sends it.
        return HTMLResponse(render("onward.html", {"path": path}))
    return RedirectResponse(there, 303)


def sign_in_page(console: Console, request: Request, problem: str = "", status: int = 200) -> Response:
    """The form."""
    values = {
        "problem": problem,
        "onward": local_path(request.query_params.get("next", ""), "/"),
        "plane_name": console.name,
        "theme": theme_of(request),
        "here": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        "has_proxy": bool(console.proxies.networks),
    }
    return HTMLResponse(render("sign_in.html", values), status)


async def sign_in(console: Console, request: Request) -> Response:
    """POST /sign-in."""
    refuse_other_origins(request.headers, hosts_of(console, request))
    address = console.proxies.address_of(_peer(request), request.headers)
    wait_s = console.attempts.wait_s(address, time.monotonic())
    if wait_s:
        response = sign_in_page(console, request, f"too many attempts from here: try again in {wait_s} s", 429)
        response.headers["retry-after"] = str(wait_s)
        return response
    form = await read_form(request)
    cookie = await console.threads.run(_begin, console, form.get("token", "").strip())
    if cookie is None:
        console.attempts.fail(address, time.monotonic())
        sentence = "this token is unknown, was removed or has ended: ask an admin of the plane for one"
        return sign_in_page(console, request, sentence, 401)
    response = RedirectResponse(local_path(form.get("next", ""), "/"), 303)
    response.set_cookie(
        console.cookie, cookie, max_age=sessions.LIFE_S, path="/", httponly=True, samesite="strict",
        secure=console.is_secure,
    )  # fmt: skip
    return response


async def sign_out(console: Console, session: Session) -> Response:
    """Ends the session here and at the plane."""
    await console.threads.run(_end, console, session)
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(console.cookie, path="/", httponly=True, samesite="strict", secure=console.is_secure)
    return response


async def set_theme(console: Console, request: Request) -> Response:
    """POST /theme: light, dark, or as the system has it. Nothing that needs a session."""
    refuse_other_origins(request.headers, hosts_of(console, request))
    form = await read_form(request)
    response = RedirectResponse(local_path(form.get("here", ""), "/"), 303)
    theme = form.get("theme", "")
    response.set_cookie(
        "exeat-theme", theme if theme in ("light", "dark") else "auto", max_age=_THEME_S, path="/", httponly=True,
        samesite="lax", secure=console.is_secure,
    )  # fmt: skip
    return response


def _peer(request: Request) -> str:
    return request.client.host if request.client else ""


def _session_of(console: Console, cookie: str) -> Session | None:
    with console.plane.database.reading() as tx:
        return sessions.session_of(console.seal, tx, cookie, console.plane.now_ns())


def _begin(console: Console, token: str) -> str | None:
    now_ns = console.plane.now_ns()
    with console.plane.database.reading() as tx:
        person = people.person_of(tx, token, now_ns)
    if person is None:  # an attempt must not keep the writers waiting
        return None
    with console.plane.database.writing() as tx:
        people.note_use(tx, person.name, now_ns)
        return sessions.begin(console.seal, tx, person, now_ns)


def _end(console: Console, session: Session) -> None:
    with console.plane.database.writing() as tx:
        sessions.end(tx, session, console.plane.now_ns())
