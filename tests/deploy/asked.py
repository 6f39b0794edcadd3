"""Runtimes asked by tests, which wait for the answer."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

import pytest

from exeat.errors import ExeatError
from exeat.model.identity import Identity
from exeat.runtimes.runtime import Runtime

MARGIN_S = 3.0  # a busy machine may take so much longer than is promised


def find(make: Callable[[], Runtime], container_id: str) -> Identity | None:
    """Ask once, over a connection of its own."""

    async def once() -> Identity | None:
        runtime = make()
        try:
            return await runtime.find(container_id)
        finally:
            await runtime.close()

    return asyncio.run(once())


def assert_silence_is_an_error(make: Callable[[], Runtime], pid: int, container_id: str, within_s: float) -> None:
    """While the daemon is stopped, nobody is told anything, and nobody waits for long; then it answers as before."""
    before = find(make, container_id)
    assert before
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(ExeatError, match="has not answered within"):
            find(make, container_id)
        assert within_s <= time.monotonic() - began < within_s + MARGIN_S
    finally:
        os.kill(pid, signal.SIGCONT)
    assert find(make, container_id) == before
