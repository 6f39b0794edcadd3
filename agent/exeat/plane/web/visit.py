"""One request of somebody who is signed in, and what a page needs to answer it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from exeat.plane.people import Person, Role
from exeat.plane.store.database import Tx
from exeat.plane.web.console import Console
from exeat.plane.web.rendering import render

_P = ParamSpec("_P")
_T = TypeVar("_T")
_SAID = "exeat-said"
_SAID_S = 60


@dataclass(frozen=True, slots=True)
class Visit:
    """Who asks what of which plane."""

    console: Console
    request: Request
    person: Person
    csrf: str
    can_sign_out: bool
    form: Mapping[str, str]  # empty for a page that is only looked at

    @property
    def now_ns(self) -> int:
        """By the plane's clock."""
        return self.console.plane.now_ns()

    def asked(self, name: str, otherwise: str = "") -> str:
        """A parameter of the address."""
        return self.request.query_params.get(name, otherwise).strip()

    def part(self, name: str) -> str:
        """A part of the path."""
        text: str = self.request.path_params[name]
        return text

    async def reading(self, read: Callable[Concatenate[Tx, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What it finds in one state of the store."""

        def run() -> _T:
            with self.console.plane.database.reading() as tx:
                return read(tx, *args, **kwargs)

        return await self.console.threads.run(run)

    async def writing(self, write: Callable[Concatenate[Tx, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What it returns once it is committed."""

        def run() -> _T:
            with self.console.plane.database.writing() as tx:
                return write(tx, *args, **kwargs)

        return await self.console.threads.run(run)

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """The page, with what every page shows."""
        said = self.console.seal.opened("said", self.request.cookies.get(_SAID, ""))
        response = HTMLResponse(render(template, self.values() | {"said": said} | values), status)
        if said is not None:
            response.delete_cookie(_SAID, path="/")
        return response

    def values(self) -> dict[str, Any]:
        """What every template may use."""
        return {
            "person": self.person,
            "csrf": self.csrf,
            "can_sign_out": self.can_sign_out,
            "is_approver": self.person.role.covers(Role.APPROVER),
            "is_admin": self.person.role.covers(Role.ADMIN),
            "now_ns": self.now_ns,
            "here": self.request.url.path + (f"?{self.request.url.query}" if self.request.url.query else ""),
            "path": self.request.url.path,
            "query": dict(self.request.query_params),
            "theme": theme_of(self.request),
            "plane_name": self.console.name,
        }

    def done(self, path: str, said: str) -> Response:
        """After a change: the page that shows it, and one sentence above it."""
        response = RedirectResponse(path, 303)
        sealed = self.console.seal.closed("said", said)
        response.set_cookie(
            _SAID, sealed, max_age=_SAID_S, path="/", httponly=True, samesite="strict", secure=self.console.is_secure
        )
        return response


def theme_of(request: Request) -> str:
    """light, dark, or auto: as the system has it."""
    theme = request.cookies.get("exeat-theme", "")
    return theme if theme in ("light", "dark") else "auto"
