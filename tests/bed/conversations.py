"""What a host says to what it hears. No sockets here: bytes in, bytes out."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Protocol


def introduction(name: str) -> bytes:
    """The line by which a client, and a test, knows which host answered."""
    return f"I am {name}\n".encode()


class Conversation(Protocol):
    """One connection's talk. `is_over` asks for the connection to be closed once what was said is written."""

    is_over: bool

    def hear(self, data: bytes) -> bytes:
        """The answer to the next bytes."""

    def end(self) -> bytes:
        """The answer to the client's end of stream."""


class Echo:
    """Introduces itself once, then returns what it hears."""

    is_over = False

    def __init__(self, name: str) -> None:
        self._greeting = introduction(name)

    def hear(self, data: bytes) -> bytes:
        """The same bytes, after the introduction the first time."""
        greeting, self._greeting = self._greeting, b""
        return greeting + data

    def end(self) -> bytes:
        """Nothing more."""
        return b""


class Silent:
    """Hears all; introduces itself at the end if it has a name."""

    is_over = False

    def __init__(self, name: str | None = None) -> None:
        self._last_words = introduction(name) if name else b""

    def hear(self, data: bytes) -> bytes:
        """No answer."""
        return b""

    def end(self) -> bytes:
        """The introduction, once the client is done."""
        return self._last_words


class Http:
    """Answers each request head with the name; keeps the connection open. Bodies are not understood."""

    is_over = False
    HEAD_LIMIT = 64 << 10

    def __init__(self, name: str) -> None:
        self.name = name
        self._pending = b""

    def hear(self, data: bytes) -> bytes:
        """One answer for each blank line."""
        *heads, self._pending = (self._pending + data).split(b"\r\n\r\n")
        self._pending = self._pending[-self.HEAD_LIMIT :]
        return b"".join(self._answer(head) for head in heads)

    def _answer(self, head: bytes) -> bytes:
        body = introduction(self.name)
        fields = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        return fields if head.startswith(b"HEAD ") else fields + body

    def end(self) -> bytes:
        """Nothing more."""
        return b""


class Encrypted:
    """OpenSSL between memory buffers, around an Http conversation."""

    def __init__(self, context: ssl.SSLContext, http: Http, note_sni: Callable[[str | None], None]) -> None:
        self.is_over = False
        self.failure: str | None = None
        self.note_sni = note_sni
        self.http = http
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._tls.conversation = self  # on_server_name finds its way back by this
        self._is_shaken = False

    def hear(self, data: bytes) -> bytes:
        """Handshake messages, alerts, or the encrypted answer."""
        self._incoming.write(data)
        try:
            if not self._is_shaken:
                self._tls.do_handshake()
                self._is_shaken = True
            while plain := self._tls.read(64 << 10):
                self._tls.write(self.http.hear(plain))
            self.is_over = True  # close_notify
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:  # SSLZeroReturnError too
            self.failure = str(error)
            self.is_over = True
        return self._outgoing.read()

    def end(self) -> bytes:
        """Nothing more."""
        return b""


def on_server_name(tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
    """OpenSSL's servername callback; called for each ClientHello, so twice around a HelloRetryRequest."""
    tls.conversation.note_sni(name)  # type: ignore[attr-defined]  # set by Encrypted
