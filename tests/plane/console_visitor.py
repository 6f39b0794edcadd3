"""Somebody at a browser without JavaScript: follows links, fills in forms, keeps cookies."""

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

SAME_ORIGIN = {"sec-fetch-site": "same-origin"}
_CSRF = re.compile(r'name="csrf" value="([0-9a-f]{64})"')


class Visitor:
    """One of them."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.csrf = ""

    def sign_in(self, token: str) -> httpx.Response:
        """By the form."""
        return self.client.post("/sign-in", data={"token": token}, headers=SAME_ORIGIN)

    def get(self, path: str, **headers: str) -> httpx.Response:
        """A page; its forms' token is remembered."""
        answer = self.client.get(path, headers={name.replace("_", "-"): text for name, text in headers.items()})
        if found := _CSRF.search(answer.text):
            self.csrf = found[1]
        return answer

    def page(self, path: str) -> str:
        """The same where it is there: its text."""
        answer = self.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.headers.get("location"))
        return answer.text

    def post(self, path: str, **fields: str) -> httpx.Response:
        """A form of the page that was looked at last."""
        return self.client.post(path, data={"csrf": self.csrf} | fields, headers=SAME_ORIGIN)

    def follow(self, answer: httpx.Response) -> str:
        """Where a form leads on to."""
        assert answer.status_code == 303, (answer.status_code, words(answer.text))
        return self.page(answer.headers["location"])


@contextmanager
def visiting(address: str, token: str = "", source: str = "127.0.0.1") -> Iterator[Visitor]:
    """A browser of its own; signed in, if there is a token. `source`: from which address of loopback it comes."""
    transport = httpx.HTTPTransport(local_address=source)
    with httpx.Client(base_url=address, transport=transport, timeout=10) as client:
        visitor = Visitor(client)
        if token:
            assert visitor.sign_in(token).status_code == 303
        yield visitor


def words(page: str) -> str:
    """What a reader sees, more or less."""
    body = page.partition("<main")[2] or page
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())
