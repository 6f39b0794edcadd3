"""What every command that asks the plane shares: where it is, who asks, and how its answers and refusals come back."""

import argparse
import http.client
import json
import os
import ssl
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from exeat.errors import AgentUnavailable, ExeatError, Refused, StatusWord

STATUSES = (
    "exit status: 0 done; 1 the answer is no, or not allowed; 2 wrong usage; 4 the plane cannot be reached; "
    "125 exeat failed"
)
_DEFAULT = "http://127.0.0.1:9471"
_PREFIX = "/api/v1"
_ANSWER_MAX = 256 * 1024 * 1024
_WAIT_S = 60.0
_WORDS = {400: StatusWord.INVALID, 404: StatusWord.NOT_FOUND, 503: StatusWord.UNAVAILABLE}


class PlaneUnavailable(AgentUnavailable):
    """The plane cannot be asked."""


def add_common(
    parser: argparse.ArgumentParser, outputs: tuple[str, ...] = ("table", "json"), *, is_inner: bool = False
) -> None:
    """Where the plane is, who asks, and `-o`. `is_inner`: a parser around this one has them too, and their defaults."""
    parser.epilog = STATUSES
    had = {action.dest for action in parser._actions}
    parser.add_argument(
        "--plane",
        metavar="URL",
        default=os.environ.get("EXEAT_PLANE") or _DEFAULT,
        help=f"where the plane is (EXEAT_PLANE, else {_DEFAULT})",
    )
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="who vouches for the plane, if not the system's own list"
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="holds the token (else the file EXEAT_PLANE_TOKEN_FILE, else EXEAT_PLANE_TOKEN itself)",
    )
    parser.add_argument("-o", "--output", choices=outputs, default=outputs[0], help="how to show it")
    if is_inner:
        for action in parser._actions:
            if action.dest not in had:
                action.default = argparse.SUPPRESS


def plane_of(options: argparse.Namespace) -> "PlaneClient":
    """The plane, by the flags of add_common()."""
    return PlaneClient(options.plane, _token(options.token_file), options.ca)


def is_json(options: argparse.Namespace) -> bool:
    """Whether a machine reads it."""
    return bool(options.output == "json")


def show_json(found: Any) -> None:
    """As docs/plane-api.md describes it. In ASCII: names in it come from workloads, and a terminal may read it."""
    print(json.dumps(found, indent=2))


def path_of(*parts: str | int) -> str:
    """`/nodes/web-1`, whatever a name holds."""
    return "".join(f"/{quote(str(part), safe='')}" for part in parts)


class PlaneClient:
    """Asks; one connection a call. Certificates are always checked, and redirections never followed: they would take
    the token elsewhere."""

    def __init__(self, url: str, token: str, ca: Path | None = None) -> None:
        self._url = url.rstrip("/")
        self._token = token
        parts = urlsplit(self._url)
        try:
            port = parts.port
        except ValueError:
            port = 0
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.query or parts.username:
            raise Refused(StatusWord.INVALID, f"{url} is no plane: write one like https://plane.example.com:9471")
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise Refused(StatusWord.INVALID, f"{url} would carry the token in the clear: write https://")
        self._host, self._port, self._path = parts.hostname, port, parts.path
        self._tls = _tls(ca) if parts.scheme == "https" else None

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """What it answers."""
        return self._call("GET", path + _query(query))

    def post(self, path: str, body: Mapping[str, Any] | None = None, wait_s: float = _WAIT_S) -> Any:
        """The same for what changes something."""
        return self._call("POST", path, body or {}, wait_s)

    def delete(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """The same for what goes."""
        return self._call("DELETE", path + _query(query))

    def text(self, path: str, query: Mapping[str, Any] | None = None) -> str:
        """What is no JSON."""
        connection, response = self._open("GET", path + _query(query), None, _WAIT_S)
        with _closing(connection, self._url):
            return _content(response, self._url).decode()

    def lines(self, path: str, query: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """One object of JSON a line, as they come."""
        connection, response = self._open("GET", path + _query(query), None, None)
        with _closing(connection, self._url):
            while line := response.readline():
                if line.strip():
                    yield _parsed(line, self._url)

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None, wait_s: float = _WAIT_S) -> Any:
        connection, response = self._open(method, path, body, wait_s)
        with _closing(connection, self._url):
            return _parsed(_content(response, self._url), self._url)

    def _open(
        self, method: str, path: str, body: Mapping[str, Any] | None, wait_s: float | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """An answer that is no refusal."""
        connection = self._connection(wait_s)
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        with _told(self._url):
            connection.request(method, self._path + _PREFIX + path, content, headers)
            response = connection.getresponse()
            if response.status == 200:
                return connection, response
        with _closing(connection, self._url):
            raise _refusal(response.status, _content(response, self._url), self._url)

    def _connection(self, wait_s: float | None) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=wait_s)
        return http.client.HTTPSConnection(self._host, self._port, timeout=wait_s, context=self._tls)


class _told:
    """What goes wrong on the way becomes a sentence."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _where: object) -> None:
        if isinstance(error, ssl.SSLCertVerificationError):
            raise PlaneUnavailable(
                f"{self._url} cannot be trusted: {error.verify_message}; `--ca FILE` says who vouches for it"
            ) from error
        if isinstance(error, BrokenPipeError | ConnectionError | TimeoutError | OSError):
            why = getattr(error, "strerror", None) or str(error) or "it does not answer"
            raise PlaneUnavailable(f"{self._url} cannot be reached: {why}") from error
        if isinstance(error, http.client.HTTPException):
            raise PlaneUnavailable(f"{self._url} does not speak HTTP, or hung up: {error!r}") from error


class _closing(_told):
    """The same, and the connection ends."""

    def __init__(self, connection: http.client.HTTPConnection, url: str) -> None:
        super().__init__(url)
        self._connection = connection

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        self._connection.close()
        super().__exit__(kind, error, where)


def _content(response: http.client.HTTPResponse, url: str) -> bytes:
    content = response.read(_ANSWER_MAX + 1)
    if len(content) > _ANSWER_MAX:
        raise ExeatError(f"{url} answers more than {_ANSWER_MAX:,} bytes: ask for less")
    return content


def _parsed(content: bytes, url: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise ExeatError(f"{url} answers something that is no JSON: is a plane there?") from error


def _refusal(status: int, content: bytes, url: str) -> ExeatError:
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    sentence = found.get("error") if isinstance(found, dict) else None
    if not isinstance(sentence, str):
        return ExeatError(f"{url} answers with status {status} and no sentence: is a plane there?")
    word = _WORDS.get(status, StatusWord.PRECONDITION)
    if status == 503:
        return PlaneUnavailable(sentence)
    return ExeatError(sentence) if status >= 500 else Refused(word, sentence)


def _query(query: Mapping[str, Any] | None) -> str:
    given = {name: value for name, value in (query or {}).items() if value not in (None, "", [], False)}
    words = {name: "true" if value is True else value for name, value in given.items()}
    return f"?{urlencode(words, doseq=True)}" if words else ""


def _tls(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ExeatError(f"{ca} holds no certificates that can be read: {error}") from error


def _token(file: Path | None) -> str:
    named = file or (Path(name) if (name := os.environ.get("EXEAT_PLANE_TOKEN_FILE")) else None)
    if named is None:
        token = os.environ.get("EXEAT_PLANE_TOKEN", "")
    else:
        try:
            token = named.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ExeatError(
                f"{named}: the token cannot be read: {getattr(error, 'strerror', None) or error}"
            ) from error
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable():
        raise Refused(
            StatusWord.INVALID,
            "say who asks: --token-file FILE, or EXEAT_PLANE_TOKEN; `exeat plane tokens add` makes tokens",
        )
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
