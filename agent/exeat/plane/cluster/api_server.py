"""The API server of a Kubernetes cluster, over HTTPS: lists, watches, and statuses that are written.

Every request has the token as it is in its file now. The server's certificate is always checked, by the cluster's own
authority and no other. No proxy of the environment is used, no redirection is followed: the token goes nowhere else.
"""

import asyncio
import json
import logging
import os
import socket
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from exeat.core.problems import shown
from exeat.errors import ExeatError
from exeat.plane.cluster.json_text import parse
from exeat.plane.cluster.objects import API_VERSION, GROUP, VERSION, Garbled, Key, Kind
from exeat.plane.settings import ClusterPlace

_ANSWER_MAX = 8 << 20  # bytes of a page; a longer one is asked for in smaller pieces
_LINE_MAX = 8 << 20  # of a watch: one object, which etcd lets have 1.5 MiB
_TOKEN_MAX = 64 << 10
_MESSAGE_MAX = 64 << 10  # of what an error says
_WAIT_S = 30.0
_CONNECT_S = 10.0
# A connection whose other end has vanished without a word is found out in a minute, though nobody says anything.
_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),
]
_MENDED = {
    401: "the token in {token} is not taken: is it this cluster's, and has it not ended?",
    403: "let the plane's ServiceAccount get, list and watch them, and patch their status",
    404: "is the CustomResourceDefinition of exeat.dev/v1 installed?",
    410: "it begins anew with a list",
}
# It tells of each request, and it is asked all the time.
logging.getLogger("httpx").setLevel(logging.WARNING)


class ApiError(ExeatError):
    """The API server does not do it. `status`: HTTP's; 0: it did not answer."""

    def __init__(self, sentence: str, status: int = 0) -> None:
        super().__init__(sentence)
        self.status = status


class TooMuch(ExeatError):
    """An answer is longer than is read at once."""


def server_of(place: ClusterPlace, variables: Mapping[str, str] = os.environ) -> str:
    """`https://HOST:PORT`. Raises ExeatError where it should be this cluster's, and this is none."""
    if place.server:
        return place.server
    host, port = variables.get("KUBERNETES_SERVICE_HOST", ""), variables.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ExeatError(
            "`cluster: {in_cluster: true}` is for a plane in a pod of Kubernetes, and this is none (there is no "
            "KUBERNETES_SERVICE_HOST): write `{server: https://HOST:6443, ca: FILE, token: FILE}`"
        )
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


class ApiServer:
    """Connections to it: `async with ApiServer(place) as server`. Raises ApiError, Garbled, TooMuch."""

    def __init__(self, place: ClusterPlace) -> None:
        self._place = place
        self._server = server_of(place)
        self._client = httpx.AsyncClient(
            base_url=self._server,
            transport=httpx.AsyncHTTPTransport(verify=_context(place.ca), trust_env=False, socket_options=_ALIVE),
            timeout=httpx.Timeout(_WAIT_S, connect=_CONNECT_S),
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "exeat-plane"},
            trust_env=False,
        )

    async def __aenter__(self) -> "ApiServer":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.aclose()

    async def page(self, kind: Kind, limit: int, after: str) -> dict[str, Any]:
        """The first objects of all namespaces, or those `after` a page's `continue`."""
        asked = {"limit": str(limit), **({"continue": after} if after else {})}
        async with self._asked("GET", _path(kind), f"list the {kind.plural}", params=asked) as response:
            said = await asyncio.to_thread(parse, await _whole(response))
        is_list = isinstance(said, dict) and (said.get("apiVersion"), said.get("kind")) == (API_VERSION, f"{kind}List")
        if not is_list or not isinstance(said.get("items"), list) or not isinstance(said.get("metadata"), dict):
            raise Garbled(f"{self._server} answered to a list of {kind.plural} with something else")
        checked: dict[str, Any] = said
        return checked

    async def watch(self, kind: Kind, version: str, for_s: int) -> AsyncGenerator[Any, None]:
        """What changes from a resourceVersion on, until the server ends it."""
        asked = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(for_s),
        }
        timeout = httpx.Timeout(_WAIT_S, connect=_CONNECT_S, read=for_s + _WAIT_S)
        what = f"watch the {kind.plural}"
        async with self._asked("GET", _path(kind), what, params=asked, timeout=timeout) as response:
            begun = b""
            async for piece in response.aiter_bytes():
                *lines, begun = (begun + piece).split(b"\n") if b"\n" in piece else (begun + piece,)
                for line in filter(bytes.strip, lines):
                    yield parse(line)
                if len(begun) > _LINE_MAX:
                    raise Garbled(f"{self._server} tells of an object of more than {_LINE_MAX >> 20} MiB")

    async def patch_status(self, key: Key, version: str, status: Mapping[str, Any]) -> Any:
        """Of the object as it was at that version; the object afterwards."""
        body = json.dumps({"metadata": {"resourceVersion": version}, "status": status})
        headers = {"Content-Type": "application/merge-patch+json"}
        path = f"{_path(key.kind, key.namespace)}/{quote(key.name, safe='')}/status"
        async with self._asked("PATCH", path, f"write the status of {key}", content=body, headers=headers) as response:
            return parse(await _whole(response))

    def _asked(self, method: str, path: str, what: str, **how: Any) -> "_Asked":
        how["headers"] = {**how.get("headers", {}), "Authorization": f"Bearer {_token(self._place.token)}"}
        return _Asked(self._client.stream(method, path, **how), f"{self._server} does not {what}", self._place.token)


class _Asked:
    """A response whose errors are sentences, also while it is read."""

    def __init__(self, asked: AbstractAsyncContextManager[httpx.Response], what: str, token: Path) -> None:
        self._asked = asked
        self._what = what
        self._token = token

    async def __aenter__(self) -> httpx.Response:
        try:
            response = await self._asked.__aenter__()
        except (httpx.HTTPError, OSError) as error:
            raise self._broken(error) from error
        if response.status_code == 200:
            return response
        try:
            said = await _message(response)
        except (httpx.HTTPError, OSError):
            said = ""
        finally:
            await self._asked.__aexit__(None, None, None)
        mended = _MENDED.get(response.status_code, "").format(token=self._token)
        why = "; ".join(one for one in (f"it answers {response.status_code}", said, mended) if one)
        raise ApiError(f"{self._what}: {why}", response.status_code)

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            await self._asked.__aexit__(kind, error, trace)
        except (httpx.HTTPError, OSError) as broken:
            raise self._broken(broken) from broken
        if isinstance(error, httpx.HTTPError | OSError):
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> ApiError:
        return ApiError(f"{self._what}: {str(error) or type(error).__name__}")


async def _whole(response: httpx.Response) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in response.aiter_bytes():
        size += len(piece)
        if size > _ANSWER_MAX:
            raise TooMuch(f"an answer has more than {_ANSWER_MAX >> 20} MiB")
        pieces.append(piece)
    return b"".join(pieces)


async def _message(response: httpx.Response) -> str:
    """What a Status says, or the beginning of whatever else came."""
    said = b""
    async for piece in response.aiter_bytes():
        said += piece
        if len(said) > _MESSAGE_MAX:
            break
    try:
        status = json.loads(said)
        return shown(str(status["message"]))
    except (ValueError, RecursionError, LookupError, TypeError):
        return shown(said[:200].decode(errors="replace")) if said.strip() else ""


def _path(kind: Kind, namespace: str = "") -> str:
    within = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    return f"/apis/{GROUP}/{VERSION}{within}/{kind.plural}"


def _context(ca: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise ApiError(f"{ca}: no authority's certificates can be read from it: {error}") from error


def _token(file: Path) -> str:
    try:
        text = file.read_text(encoding="ascii").strip() if file.stat().st_size <= _TOKEN_MAX else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ApiError(f"{file}: the token cannot be read: {error}") from error
    if not text or not text.isprintable() or " " in text:
        raise ApiError(f"{file}: this is no token: write one line without blanks, as Kubernetes does")
    return text
