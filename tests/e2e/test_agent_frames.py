"""Frames of packet sockets, which pass no hook of a cgroup: stopped at interfaces, on the host and in containers."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bed import Host
from bed.frames import (
    DATA,
    NO_MAC,
    PORT,
    frame_to,
    pass_the_queue,
    pass_the_queue_from,
    register_umem,
    send_frame,
)
from bed.namespace import Namespace
from bed.network import lay_line
from e2e.agent_stage import AgentStage
from e2e.frame_stage import free_cgroup, managed_cgroup, open_frame_stage
from e2e.guard import remove_cgroup

OUTER_MAC, INNER_MAC = "02:00:5e:00:53:21", "02:00:5e:00:53:22"
ELSEWHERE = "198.51.100.77"  # nobody's


@pytest.fixture(scope="module")
def opened() -> Iterator[tuple[AgentStage, Host]]:
    """An agent whose policy allows nothing but a name, and a host that counts datagrams."""
    with open_frame_stage() as opened:
        yield opened


@pytest.fixture
def stage(opened: tuple[AgentStage, Host]) -> Iterator[AgentStage]:
    """Without the cgroups of the test before."""
    stage, sink = opened
    sink.reset()
    yield stage
    for cgroup in stage.top.iterdir():
        if cgroup.is_dir():
            remove_cgroup(cgroup)
    stage.wait_until(lambda: not stage.json("workloads").get("workloads"))


@pytest.fixture
def sink(opened: tuple[AgentStage, Host]) -> Host:
    """Where frames are for."""
    return opened[1]


@pytest.fixture
def managed(stage: AgentStage) -> Path:
    """A cgroup under the policy."""
    return managed_cgroup(stage, "sender")


@pytest.fixture
def free(stage: AgentStage) -> Iterator[Path]:
    """A cgroup that no policy is for."""
    with free_cgroup(stage) as cgroup:
        yield cgroup


@pytest.fixture
def inside(stage: AgentStage) -> Iterator[Namespace]:
    """A container's namespace, with its other end and its way out in the agent's, which routes."""
    client, space = stage.bed.network.client, Namespace()
    try:
        client.command("sysctl", "-qw", "net.ipv4.ip_forward=1")
        lay_line(space, client, "inner", ("198.51.100.128/30",), f"{INNER_MAC} {OUTER_MAC}")
        yield space
    finally:
        client.command("sysctl", "-qw", "net.ipv4.ip_forward=0")
        client.command("ip", "link", "del", "inner")
        space.close()


def told(stage: AgentStage, reason: str) -> list[dict[str, Any]]:
    """The verdicts of this reason."""
    lines = stage.exeat("verdicts", "--since", "10m", "-o", "json").stdout.splitlines()
    import json

    return [one for one in map(json.loads, lines) if one["reason"] == reason]


def send_when_known(frame: bytes, device: str) -> str:
    """After the agent has entered the namespace of who sends."""
    time.sleep(1)
    return send_frame(frame, device)


def test_a_frame_is_stopped_and_told_and_that_of_a_stranger_is_not(
    stage: AgentStage, sink: Host, managed: Path, free: Path
) -> None:
    """By who sends it; the program hears of it at once."""
    frame, frame6 = frame_to(sink.address4), frame_to(sink.address6)
    assert stage.run(lambda: [send_frame(frame), send_frame(frame6)], free) == ["sent"] * 2
    stage.wait_until(lambda: sink.datagrams() == [DATA] * 2)
    sink.reset()
    assert stage.run(lambda: [send_frame(one) for one in (frame, frame6, frame)], managed) == ["ENOBUFS"] * 3
    assert sink.count().is_untouched
    stage.wait_until(lambda: len(told(stage, "packet_socket")) >= 3)
    one = told(stage, "packet_socket")[-1]
    assert (one["verdict"], one["hook"], one["workload"]) == ("DROPPED", "frame", stage.path(managed))
    assert one["destination"] == {"address": sink.address4, "port": PORT}
    assert one["process"]["pid"] > 0
    assert one["process"]["uid"] == 0
    assert one["process"]["comm"]
    assert one["detail"] == 0x0800


def test_a_socket_is_told_once_however_many_frames_it_sends(stage: AgentStage, sink: Host, managed: Path) -> None:
    """A flood of frames is no flood of verdicts; all are counted."""
    frame = frame_to(sink.address4)

    def flood() -> int:
        import socket

        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind(("uplink", 0))
            refused = 0
            for _ in range(200):
                try:
                    sock.send(frame)
                except OSError:
                    refused += 1
            return refused

    before = len(told(stage, "packet_socket"))
    assert stage.run(flood, managed) == 200
    assert sink.count().is_untouched
    stage.wait_until(lambda: len(told(stage, "packet_socket")) == before + 1)
    (view,) = stage.json("workloads", stage.path(managed))["workloads"]
    assert int(view["traffic"]["dropped"]) >= 200


def test_in_monitor_it_passes_and_is_told(stage: AgentStage, sink: Host, managed: Path) -> None:
    """As everything does there."""
    stage.exeat("mode", stage.path(managed), "monitor", "--for", "5m")
    assert stage.run(lambda: send_frame(frame_to(sink.address4)), managed) == "sent"
    stage.wait_until(lambda: sink.datagrams() == [DATA])
    stage.wait_until(lambda: any(one["verdict"] == "AUDIT" for one in told(stage, "packet_socket")))


def test_no_way_round_the_queue(stage: AgentStage, sink: Host, managed: Path, free: Path) -> None:
    """Options by which frames pass no program of tc are refused; AF_XDP can do nothing without."""
    frame = frame_to(sink.address4)
    assert stage.run(lambda: send_frame(frame, before=pass_the_queue), free) == "sent"
    stage.wait_until(lambda: sink.datagrams() == [DATA])
    sink.reset()
    assert stage.run(lambda: send_frame(frame, before=pass_the_queue), managed) == "EPERM"
    assert stage.run(register_umem, free) not in ("EPERM", "registered")
    assert stage.run(register_umem, managed) == "EPERM"
    assert sink.count().is_untouched
    stage.wait_until(lambda: {one["detail"] >> 16 for one in told(stage, "socket_option")} == {263, 283})


def test_in_a_container_frames_are_stopped_at_their_first_interface(
    stage: AgentStage, sink: Host, managed: Path, free: Path, inside: Namespace
) -> None:
    """And where somebody helped them past that, at the other end of the veth."""
    frame = frame_to(sink.address4, to=OUTER_MAC, by=INNER_MAC, source="198.51.100.130")
    assert stage.run(lambda: send_frame(frame, "eth0"), free, at=inside) == "sent"
    stage.wait_until(lambda: sink.datagrams() == [DATA])
    sink.reset()
    assert stage.run(lambda: send_when_known(frame, "eth0"), managed, at=inside) == "ENOBUFS"
    assert sink.count().is_untouched
    before = pass_the_queue_from(free, managed)
    assert stage.run(lambda: send_frame(frame, "eth0", before=before), managed, at=inside) == "sent"
    assert sink.count().is_untouched
    stage.wait_until(lambda: len(told(stage, "packet_socket")) >= 2)


def test_a_containers_own_kernel_forwards_no_frame_for_it(
    stage: AgentStage, sink: Host, managed: Path, free: Path, inside: Namespace
) -> None:
    """Sent on its loopback, a datagram would come out of the other interface and be nobody's."""
    inside.command("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")
    inside.command("sysctl", "-qw", "net.ipv4.conf.lo.rp_filter=0", "net.ipv4.conf.lo.accept_local=1")
    frame = frame_to(sink.address4, to=NO_MAC, by=NO_MAC, source=ELSEWHERE)
    assert stage.run(lambda: send_frame(frame, "lo"), free, at=inside) == "sent"
    stage.wait_until(lambda: sink.datagrams() == [DATA])
    sink.reset()
    assert stage.run(lambda: send_when_known(frame, "lo"), managed, at=inside) == "ENOBUFS"
    assert sink.count().is_untouched


def test_an_interface_that_appears_is_guarded(stage: AgentStage, managed: Path, free: Path) -> None:
    """Whatever it is."""
    client = stage.bed.network.client
    frame = frame_to("203.0.113.99")
    client.command("ip", "link", "add", "late", "up", "type", "bridge")
    try:
        stage.wait_until(lambda: stage.run(lambda: send_frame(frame, "late"), managed) == "ENOBUFS")
        assert stage.run(lambda: send_frame(frame, "late"), free) == "sent"
    finally:
        client.command("ip", "link", "del", "late")


def test_killed_the_kernel_stops_frames_on_and_the_next_agent_takes_over(
    stage: AgentStage, sink: Host, managed: Path, free: Path
) -> None:
    """With nobody there, and after."""
    frame = frame_to(sink.address4)
    stage.kill()
    assert stage.run(lambda: send_frame(frame), managed) == "ENOBUFS"
    stage.start()
    assert stage.run(lambda: send_frame(frame), managed) == "ENOBUFS"
    assert sink.count().is_untouched
    assert stage.run(lambda: send_frame(frame), free) == "sent"
    stage.wait_until(lambda: sink.datagrams() == [DATA])
    assert not stage.json("status").get("complaints")
