"""How much of the plane its API may take: nobody with a token, a viewer's even, can keep agents or others waiting."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from exeat.errors import Refused, StatusWord

_T = TypeVar("_T")
_THREADS = 4  # with the console's two, fewer than PostgreSQL has connections: 8, for agents too
_LARGE_MAX = 3  # requests with a large body, of all
_WAIT_S = 60.0  # for the turn of one
FOLLOWED_MAX = 16  # streams of one token


class Threads:
    """A few of their own: the plane's, which asyncio keeps, are for agents."""

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, name)

    async def run(self, work: Callable[..., _T], *args: object) -> _T:
        """In one of them, when it is its turn."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)


class ApiRoom(Threads):
    """For one event loop."""

    def __init__(self) -> None:
        super().__init__(_THREADS, "api")
        self._large = asyncio.Semaphore(_LARGE_MAX)
        self._own: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()
        self._following: Counter[str] = Counter()

    @asynccontextmanager
    async def for_large(self, name: str) -> AsyncIterator[None]:
        """From before the body is read until the answer is there: one at a time for a token. Raises Refused."""
        own = self._own.setdefault(name, asyncio.Lock())
        self._waiting[name] += 1
        try:
            try:
                async with asyncio.timeout(_WAIT_S):
                    await own.acquire()
                    try:
                        await self._large.acquire()
                    except BaseException:  # cancelled as well, as when the time is over
                        own.release()
                        raise
            except TimeoutError:
                sentence = f"other large requests have been under way for {_WAIT_S:.0f} s: try again in a moment"
                raise Refused(StatusWord.UNAVAILABLE, sentence) from None
            try:
                yield
            finally:
                self._large.release()
                own.release()
        finally:
            self._waiting[name] -= 1
            if not self._waiting[name]:
                del self._waiting[name], self._own[name]

    def check_stream(self, name: str) -> None:
        """Raises Refused where there are enough already."""
        if self._following[name] >= FOLLOWED_MAX:
            sentence = f"{FOLLOWED_MAX} streams are open with this token already: end one of them"
            raise Refused(StatusWord.PRECONDITION, sentence)

    @contextmanager
    def for_stream(self, name: str) -> Iterator[None]:
        """As long as somebody follows."""
        self._following[name] += 1
        try:
            yield
        finally:
            self._following[name] -= 1
            if not self._following[name]:
                del self._following[name]
