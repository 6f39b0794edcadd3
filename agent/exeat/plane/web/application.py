"""The plane's web door as one application: the console's pages, the JSON API, metrics and health."""

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route

from exeat.plane.api import routes as api
from exeat.plane.metrics import routes as metrics_routes
from exeat.plane.parts import Plane
from exeat.plane.people import Role
from exeat.plane.settings import Oidc
from exeat.plane.web import sign_in
from exeat.plane.web.assets import serve_asset
from exeat.plane.web.console import Console
from exeat.plane.web.guarding import error_answers, route, sign_out_route
from exeat.plane.web.headers import Headers
from exeat.plane.web.pages import PAGES
from exeat.plane.web.proxies import Proxies
from exeat.plane.web.sealing import seal_of

Answer = Callable[[Console, Request], Awaitable[Response]]


def application(plane: Plane) -> Starlette:
    """Asks the store once, for the key of its seals."""
    console = _console(plane)
    return Starlette(
        routes=[
            Route("/", lambda _: RedirectResponse("/nodes", 303)),
            Route("/static/{mark}/{name}", serve_asset),
            Route("/sign-in", _open(console, _sign_in_page), methods=["GET"]),
            Route("/sign-in", _open(console, sign_in.sign_in), methods=["POST"]),
            Route("/theme", _open(console, sign_in.set_theme), methods=["POST"]),
            sign_out_route(console),
            *(route(console, page) for page in PAGES),
            Mount("/api/v1", routes=api.routes(plane)),
            *metrics_routes(plane),
        ],
        middleware=[Middleware(Headers, is_secure=console.is_secure)],
        exception_handlers=error_answers(console),
    )


async def _sign_in_page(console: Console, request: Request) -> Response:
    if await sign_in.who(console, request) is not None:
        return RedirectResponse("/nodes", 303)
    return sign_in.sign_in_page(console, request)


def _console(plane: Plane) -> Console:
    web = plane.settings.web
    with plane.database.writing() as tx:
        seal = seal_of(tx)
    return Console(
        plane=plane,
        name=plane.settings.name,
        seal=seal,
        proxies=_proxies(web.oidc),
        is_secure=web.is_secure,
        host=urlsplit(web.url).netloc.lower(),
    )


def _proxies(oidc: Oidc | None) -> Proxies:
    if oidc is None:
        return Proxies()
    groups = (
        *((group, Role.VIEWER) for group in oidc.viewer_groups),
        *((group, Role.APPROVER) for group in oidc.approver_groups),
        *((group, Role.ADMIN) for group in oidc.admin_groups),
    )
    return Proxies(oidc.trusted_proxies, oidc.user_header, oidc.groups_header, groups)


def _open(console: Console, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """A page that nobody need be signed in for."""

    async def run(request: Request) -> Response:
        return await answer(console, request)

    return run
