"""The one thread in which gates answer and the books of their grants are kept, so that neither needs a lock."""

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from exeat.dns.gate import boot_ns
from exeat.errors import KernelError

_T = TypeVar("_T")
_TICK_S = 1.0
_FAILURES_MAX = 100


class Member(Protocol):
    """What lives in the thread."""

    def begin(self) -> None:
        """Called in the thread once it runs."""

    def tick(self, now_ns: int) -> None:
        """Called about once a second."""

    def end(self) -> None:
        """Called in the thread at last."""


class GateThread:
    """From start() to finish(). What is asked of it before and after is done by who asks."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []  # what went wrong in it; it goes on
        self._members: dict[Member, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._has_served = False
        self._thread = threading.Thread(target=self._run, name="gates", daemon=True)

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()
        self._ready.wait()

    def finish(self) -> None:
        """Stops. A failure on the way is raised here."""
        if self._loop and self._stop and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread.ident:
            self._thread.join()
        self._end_members()
        if self._thread.ident and not self._has_served and not self.failures:
            raise KernelError("the gate ended before its time: its error stands above")
        if self.failures:
            raise KernelError(f"the gate failed: {self.failures[0]!r}") from self.failures[0]

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Its event loop, for who is called in the thread; None before start() and after finish()."""
        return self._loop if threading.current_thread() is self._thread else None

    @property
    def is_alive(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive()

    def add(self, member: Member) -> None:
        """One more."""
        self._members[member] = None
        if self._loop:
            self.do(member.begin)

    def remove(self, member: Member) -> None:
        """One less."""
        if member in self._members:
            del self._members[member]
            self.do(member.end)

    def do(self, act: Callable[[], _T]) -> _T:
        """Does it in the thread, between two answers, and waits for it."""
        if not self._loop or not self._thread.is_alive() or threading.current_thread() is self._thread:
            return act()

        async def call() -> _T:
            return act()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
            self._has_served = True
        except (KernelError, OSError) as error:
            self._note(error)
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._note_context)
        self._stop = asyncio.Event()
        try:
            for member in list(self._members):
                member.begin()
            self._ready.set()
            while not self._stop.is_set():
                try:
                    await asyncio.wait_for(self._stop.wait(), _TICK_S)
                except TimeoutError:
                    self._tick()
        finally:
            self._end_members()  # whatever happened: who asks is told at once that nobody listens
        await asyncio.sleep(0)  # what they cancelled ends

    def _tick(self) -> None:
        now_ns = boot_ns()
        for member in list(self._members):
            try:
                member.tick(now_ns)
            except (KernelError, OSError) as error:
                self._note(error)

    def _end_members(self) -> None:
        while self._members:
            member, _ = self._members.popitem()
            member.end()

    def _note(self, error: BaseException) -> None:
        if len(self.failures) < _FAILURES_MAX:
            self.failures.append(error)

    def _note_context(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A question that broke something gets no answer; the gate goes on with the others, and says so at the end."""
        error = context.get("exception")
        self._note(error if isinstance(error, BaseException) else KernelError(str(context.get("message"))))
