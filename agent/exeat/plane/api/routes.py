"""The plane's JSON API, for the commands of `exeat plane` and for other tools. docs/plane-api.md is its contract."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from exeat.errors import Refused, StatusWord
from exeat.plane.api import approvals as api_approvals
from exeat.plane.api import commands as api_commands
from exeat.plane.api import nodes as api_nodes
from exeat.plane.api import people as api_people
from exeat.plane.api import policies as api_policies
from exeat.plane.api import report as api_report
from exeat.plane.api import rollouts as api_rollouts
from exeat.plane.api import verdicts as api_verdicts
from exeat.plane.api.calls import answered, endpoint, told
from exeat.plane.api.room import ApiRoom
from exeat.plane.parts import Plane

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def routes(plane: Plane) -> list[BaseRoute]:
    """All of them, to be mounted under /api/v1."""
    calls = {
        **api_people.CALLS,
        **api_nodes.CALLS,
        **api_policies.calls(plane.directory.problems),
        **api_rollouts.CALLS,
        **api_verdicts.CALLS,
        **api_approvals.CALLS,
        **api_commands.CALLS,
        **api_report.CALLS,
    }
    room = ApiRoom()
    results = api_commands.Results(plane.database, room)
    found: list[BaseRoute] = [
        Route("/verdicts/follow", api_verdicts.follow(plane, room), methods=["GET"]),
        Route("/commands", api_commands.post(plane, room, results), methods=["POST"]),
    ]
    found += [Route(path, endpoint(plane, room, call), methods=[method]) for (method, path), call in calls.items()]
    paths = {path for _, path in calls} | {"/verdicts/follow"}
    found += [Route(path, told(_wrong_method), methods=_METHODS) for path in sorted(paths)]
    return [*found, Route("/{rest:path}", told(_nothing_there), methods=_METHODS)]


async def _wrong_method(request: Request) -> Response:
    sentence = f"{request.method} is not for {request.url.path}: docs/plane-api.md says what is"
    return answered({"error": sentence}, 405)


async def _nothing_there(request: Request) -> Response:
    raise Refused(StatusWord.NOT_FOUND, f"there is no call {request.url.path}: docs/plane-api.md lists them")
