"""One connection at the web door. Uvicorn waits for ever for a request that does not come, or comes byte by byte; here
whoever keeps a connection has said what they want of it. An answer may take its time."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 10.0  # for the head of a request; between two requests, uvicorn's own bound for silence holds as well


class WebConnection(H11Protocol):
    """Ends where no request is being answered and none has begun for HEAD_S."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Once TLS is agreed, where there is TLS."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Any byte ends uvicorn's bound for silence, also one that leads nowhere."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """By either side."""
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self._is_answering():
            self._forget()
        elif self._deadline is None and not self.transport.is_closing():  # more bytes get no more time
            self._deadline = self.loop.call_later(HEAD_S, self._give_up)

    def _forget(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self._is_answering():
            return
        if self.transport.get_write_buffer_size():
            self.transport.close()  # once the last answer is sent
        else:
            self.transport.abort()  # TLS would wait for a farewell

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete
