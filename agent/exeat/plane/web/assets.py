"""Styles, scripts and the icon: a few files that ship with exeat, under names that change when they do."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

STATIC = Path(__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _Asset:
    content: bytes
    media_type: str
    mark: str


@cache
def _assets() -> dict[str, _Asset]:
    found = {}
    for path in sorted(STATIC.iterdir()):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            found[path.name] = _Asset(content, _TYPES[path.suffix], hashlib.sha256(content).hexdigest()[:16])
    return found


def asset_path(name: str) -> str:
    """Where browsers find it, and may keep it for ever."""
    return f"/static/{_assets()[name].mark}/{name}"


async def serve_asset(request: Request) -> Response:
    """GET /static/MARK/NAME. An older mark gets the new file, which must not be kept under the old name."""
    asset = _assets().get(request.path_params["name"])
    if asset is None:
        return PlainTextResponse("there is no such file", status_code=404)
    is_fresh = request.path_params["mark"] == asset.mark
    headers = {"cache-control": _FOREVER if is_fresh else "no-store"}
    return Response(asset.content, media_type=asset.media_type, headers=headers)
