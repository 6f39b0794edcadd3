"""Programs against frames: attached once, kept, replaced and let go of, wherever their interface is by then."""

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from bed import Bed, call_in
from bed.frames import frame_to, send_frame
from bed.namespace import Namespace
from e2e.escapes import Steps, got
from e2e.guard import Guard, Workload, remove_cgroup
from exeat.kernel import libbpf
from exeat.kernel.frames import FRAMES_IN, FRAMES_OUT, FrameGuard

FRAME = frame_to("203.0.113.99")


@pytest.fixture
def frames(guard: Guard) -> Iterator[FrameGuard]:
    """That of the guard's instance."""
    frames = FrameGuard(guard.instance)
    if not frames.is_possible:
        pytest.skip("this kernel has no tcx")
    yield frames
    let_go(guard)


def pins(guard: Guard) -> list[str]:
    """What is pinned."""
    return guard.instance.interface_pins("frames")


def let_go(guard: Guard) -> None:
    """Removes all of it."""
    for pin in pins(guard):
        guard.instance.drop_link(f"frames/{pin}", guard.instance.directory)


@pytest.fixture
def space() -> Iterator[Namespace]:
    """A namespace with a veth's two ends in it."""
    made = Namespace()
    made.command("ip", "link", "add", "one", "up", "type", "veth", "peer", "name", "two")
    made.command("ip", "link", "set", "two", "up")
    yield made
    made.close()


def index_of(space: Namespace, name: str) -> int:
    """An interface's number there."""
    return space.call(lambda: socket.if_nametoindex(name))


def attach(frames: FrameGuard, space: Namespace, name: str, kind: str = "veth") -> None:
    """At one of its interfaces."""
    index = index_of(space, name)
    space.call(lambda: frames.attach(index, kind))


def programs(space: Namespace, name: str) -> tuple[list[int], list[int]]:
    """What is attached there, for what comes in and for what leaves."""
    index = index_of(space, name)
    return space.call(
        lambda: (
            libbpf.interface_programs(index, FRAMES_IN.tcx),
            libbpf.interface_programs(index, FRAMES_OUT.tcx),
        )
    )


def test_attached_once_on_both_sides_of_a_veth_and_on_one_of_others(
    guard: Guard, frames: FrameGuard, space: Namespace
) -> None:
    """By the instance's own programs."""
    into, out = (libbpf.program_id(guard.instance.program(side.program)) for side in (FRAMES_IN, FRAMES_OUT))
    for _ in range(2):
        attach(frames, space, "one")
        attach(frames, space, "two", "")
        assert programs(space, "one") == ([into], [out])
        assert programs(space, "two") == ([], [out])


def test_in_a_container_every_interface_that_is_there(frames: FrameGuard, space: Namespace) -> None:
    """What comes in is not its own, but for loopback's. Once, though some have been there before they came."""
    attach(frames, space, "one")
    for _ in range(2):
        space.call(frames.attach_to_all)
        found = {name: tuple(map(len, programs(space, name))) for name in ("lo", "one", "two")}
        assert found == {"lo": (1, 1), "one": (1, 1), "two": (0, 1)}


def test_new_programs_take_over_everywhere(guard: Guard, frames: FrameGuard, space: Namespace) -> None:
    """Each by an exchange; nothing is attached twice."""
    attach(frames, space, "one")
    before = programs(space, "one")
    guard.instance.load()
    attach(frames, space, "one")  # before they are renewed: the new ones beside the old
    assert tuple(map(len, programs(space, "one"))) == (2, 2)
    frames.renew()
    after = programs(space, "one")
    assert after == tuple([libbpf.program_id(guard.instance.program(one.program))] for one in (FRAMES_IN, FRAMES_OUT))
    assert after != before
    assert len(pins(guard)) == 2


def test_what_moves_is_guarded_on_and_what_has_gone_leaves_no_pin(
    guard: Guard, frames: FrameGuard, space: Namespace
) -> None:
    """As the end of a veth that goes to a container, and later ends with it."""
    attach(frames, space, "two")
    other = Namespace()
    try:
        space.command("ip", "link", "set", "two", "netns", other.path)
        assert not frames.sweep()
        other.call(frames.attach_to_all)  # as the agent does where it is now
        assert all(len(one) == 1 for one in programs(other, "two"))
        other.command("ip", "link", "del", "two")
        other.close()
        assert frames.sweep()
        until = time.monotonic() + 5  # a namespace is taken apart later
        while pins(guard) and time.monotonic() < until:
            frames.sweep()
        assert pins(guard) == []
    finally:
        other.close()


def test_what_comes_back_to_the_host_is_guarded_on_both_sides(frames: FrameGuard, space: Namespace) -> None:
    """From a container, where what leaves was stopped already."""
    other = Namespace()
    try:
        other.command("ip", "link", "add", "three", "type", "veth", "peer", "name", "four")
        other.call(frames.attach_to_all)
        other.command("ip", "link", "set", "three", "netns", space.path)
        attach(frames, space, "three")
        assert tuple(map(len, programs(space, "three"))) == (1, 1)
    finally:
        other.close()


def test_with_its_pins_everything_goes(guard: Guard, bed: Bed, frames: FrameGuard, space: Namespace) -> None:
    """As `exeat detach` removes them: frames pass that were stopped."""
    attach(frames, space, "one")
    with guard.workload() as w:
        assert call_in(bed, lambda: send_frame(FRAME, "one"), cgroup=w.cgroup, at=space) == "ENOBUFS"
        let_go(guard)
        until = time.monotonic() + 5  # the kernel lets go of them a moment later
        while programs(space, "one") != ([], []) and time.monotonic() < until:
            time.sleep(0.01)
        assert programs(space, "one") == ([], [])
        assert call_in(bed, lambda: send_frame(FRAME, "one"), cgroup=w.cgroup, at=space) == "sent"


def test_a_socket_is_judged_by_whose_it_is_now(guard: Guard, bed: Bed, frames: FrameGuard) -> None:
    """Made by a stranger, then a workload's, and let go again."""
    attach(frames, bed.network.client, "uplink")
    workload = Workload(guard, guard.leaf())

    def send_thrice(pause: Callable[[], None]) -> list[object]:
        said = []
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind(("uplink", 0))
            for is_last in (False, False, True):
                said.append(got(lambda: sock.send(FRAME)))
                if not is_last:
                    pause()
        return said

    try:
        with Steps(bed, send_thrice, workload.cgroup) as steps:
            workload.switch()
            steps.go_on()
            guard.tables.unbind(workload.id)
            steps.go_on()
        assert steps.result == [len(FRAME), "ENOBUFS", len(FRAME)]
    finally:
        guard.tables.remove(*workload.policy_ids)
        remove_cgroup(workload.cgroup)
