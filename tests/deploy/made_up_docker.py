"""A Docker daemon that makes nothing and tells of any container, late if a test wants, or nothing at all.

with made_up_docker(path) as docker:
    docker.delay_s = 0.5
    docker.image_of[id] = "ghcr.io/acme/agent:1.0"     # of every other: nobody/other
    docker.answer = lambda id: {...}                   # what it tells, instead; None: it has no such container
"""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_IMAGE_ID = "sha256:" + "6d" * 32  # of all images: who asks for a container asks for its image, too


class MadeUpDocker(socketserver.ThreadingUnixStreamServer):
    """Serves until it is closed."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Conversation)
        self.delay_s = 0.0
        self.is_silent = False
        self.image_of: dict[str, str] = {}
        self.answer: Callable[[str], Any] = self._tell
        self.asked = 0

    def _tell(self, container_id: str) -> dict[str, Any]:
        image = self.image_of.get(container_id, "nobody/other")
        told = {"Id": container_id, "Name": f"/c-{container_id[-6:]}", "Image": _IMAGE_ID}
        return told | {"Config": {"Image": image, "Labels": {}}}


class _Conversation(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        docker = self.server
        assert isinstance(docker, MadeUpDocker)
        line = self.rfile.readline().decode()
        is_for_image = line.startswith("GET /images/")
        docker.asked += not is_for_image
        time.sleep(docker.delay_s)
        if docker.is_silent or not line:
            return
        told = {"Id": _IMAGE_ID} if is_for_image else docker.answer(line.split("/")[2])
        status, body = b"404 Not Found" if told is None else b"200 OK", json.dumps(told).encode()
        with contextlib.suppress(OSError):  # who asked has gone
            self.wfile.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)


@contextlib.contextmanager
def made_up_docker(path: Path) -> Iterator[MadeUpDocker]:
    """Starts it."""
    with MadeUpDocker(path) as docker:
        threading.Thread(target=docker.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield docker
        finally:
            docker.shutdown()
            path.unlink(missing_ok=True)
