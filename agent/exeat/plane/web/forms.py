"""What a browser posts: small, of our own pages, and by whoever is signed in."""

import asyncio
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request

from exeat.errors import Refused, StatusWord

_BYTES_MAX = 64 * 1024
_FIELDS_MAX = 100
_BODY_S = 20.0
_TYPE = "application/x-www-form-urlencoded"


async def read_form(request: Request) -> Mapping[str, str]:
    """Its fields; of one that stands twice, the last. Raises Refused."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _TYPE:
        raise Refused(StatusWord.INVALID, f"a form is posted as {_TYPE}")
    body = b""
    try:
        async with asyncio.timeout(_BODY_S):
            async for part in request.stream():
                body += part
                if len(body) > _BYTES_MAX:
                    raise Refused(StatusWord.INVALID, f"a form has at most {_BYTES_MAX} bytes")
    except TimeoutError:
        sentence = f"the form was not there after {_BODY_S:.0f} s, and nothing was changed: send it again"
        raise Refused(StatusWord.INVALID, sentence) from None
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_FIELDS_MAX, errors="strict")
    except ValueError as error:
        raise Refused(StatusWord.INVALID, f"this form cannot be read ({error}): load the page anew") from error
    return {name: text.replace("\r\n", "\n") for name, text in fields}


def refuse_other_origins(headers: Headers, hosts: tuple[str, ...]) -> None:
    """Raises Refused unless the browser says that the form is on a page of ours. `hosts`: what we are called."""
    # Old browsers do not say it, and none does over plain HTTP, but on loopback.
    is_here = urlsplit(headers.get("origin", "")).netloc.lower() in hosts
    if headers.get("sec-fetch-site", "same-origin" if is_here else "") != "same-origin":
        raise Refused(StatusWord.PERMISSION, "this form came from another site, or from nowhere: nothing was changed")


def local_path(text: str, otherwise: str) -> str:
    """Where a form leads on to: a path of ours, and never another site's."""
    is_local = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable()
    return text if is_local and not urlsplit(text).netloc else otherwise
