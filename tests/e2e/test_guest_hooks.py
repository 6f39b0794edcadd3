"""Programs at interfaces: attached, kept, replaced and taken away, by tcx links and by clsact filters."""

import ctypes
import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bed.namespace import Namespace, missing_capability
from e2e.guest_stub import PORT, StubGuest, guest, place, stub
from exeat.errors import KernelError
from exeat.kernel import guest_hooks, libbpf
from exeat.kernel.filesystems import bpf_root
from exeat.kernel.guest_hooks import GuestHooks
from exeat.kernel.guests import GuestTables
from exeat.kernel.instance import Instance, instances, remove_instance

_NUMBERS = itertools.count()
ATTACH_AND_END = """
import sys
from exeat.kernel.guest_hooks import GuestHooks
from exeat.kernel.instance import Instance
GuestHooks(Instance(sys.argv[1]), uses_tcx=bool(int(sys.argv[3]))).attach(int(sys.argv[2]))
"""


class Stage:
    """An instance with the stub's programs; everything of it happens in the host's namespace."""

    def __init__(self, host: Namespace, name: str, uses_tcx: bool) -> None:
        self.host = host
        self.uses_tcx = uses_tcx
        self.instance = Instance(name)
        self.hooks = GuestHooks(self.instance, uses_tcx=uses_tcx)
        host.call(self.hooks.load)
        self.tables = GuestTables(self.instance)

    def attach(self, one: StubGuest) -> None:
        self.host.call(lambda: self.hooks.attach(one.index))

    def detach(self, one: StubGuest) -> None:
        self.host.call(lambda: self.hooks.detach(one.index))

    def attached(self) -> set[int]:
        return self.host.call(self.hooks.attached)

    def allow(self, one: StubGuest) -> None:
        self.tables.put(one.index, place())


@pytest.fixture(scope="module")
def host() -> Iterator[Namespace]:
    """Where the agent would live."""
    if missing := missing_capability():
        pytest.skip(missing)
    space = Namespace()
    yield space
    space.close()


@pytest.fixture(scope="module", params=[True, False], ids=["tcx", "clsact"])
def stage(request: pytest.FixtureRequest, host: Namespace) -> Iterator[Stage]:
    """The stub, loaded once for each way of attaching."""
    name = f"guests-{os.getpid()}-{next(_NUMBERS)}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guest_hooks, "guest_text", stub)
        try:
            yield Stage(host, name, request.param)
        finally:
            host.call(lambda: remove_instance(name))


@pytest.fixture
def one(host: Namespace) -> Iterator[StubGuest]:
    """A guest."""
    with guest(host) as made:
        yield made


@pytest.fixture
def other(host: Namespace) -> Iterator[StubGuest]:
    """Another one beside it."""
    with guest(host) as made:
        yield made


def test_packets_pass_or_stop_by_what_the_tables_say(stage: Stage, one: StubGuest, other: StubGuest) -> None:
    """The same path before, under and after the programs; the server counts."""
    assert (one.send_out(), one.send_in()) == (5, 5)
    stage.attach(one)
    assert stage.attached() == {one.index}
    assert (one.send_out(), one.send_in()) == (0, 0)
    assert (other.send_out(), other.send_in()) == (5, 5), "an interface that nobody attached to"
    stage.allow(one)
    assert (one.send_out(), one.send_in()) == (5, 5)
    stage.tables.forget(one.index)
    assert (one.send_out(), one.send_in()) == (0, 0)
    stage.detach(one)
    assert (stage.attached(), stage.host.call(stage.hooks.remnants)) == (set(), set())
    assert (one.send_out(), one.send_in()) == (5, 5)


def test_attaching_twice_is_attaching_once(stage: Stage, one: StubGuest) -> None:
    """An agent attaches again what it finds; a guest's packets are judged by one program each way."""
    stage.attach(one)
    pins = sorted(stage.instance.interface_pins())
    stage.attach(one)
    assert sorted(stage.instance.interface_pins()) == pins
    stage.detach(one)
    assert one.send_out() == 5


def test_what_is_attached_outlives_who_attached_it(stage: Stage, one: StubGuest, other: StubGuest) -> None:
    """A process attaches and ends; another one finds it, and takes it away."""
    stage.allow(other)
    for each in (one, other):
        stage.host.command(
            sys.executable, "-c", ATTACH_AND_END, stage.instance.name, str(each.index), str(int(stage.uses_tcx))
        )
    assert (one.send_out(), one.send_in()) == (0, 0)
    assert (other.send_out(), other.send_in()) == (5, 5)
    assert stage.attached() == {one.index, other.index}
    for each in (one, other):
        stage.detach(each)
    stage.tables.forget(other.index)
    assert one.send_out() == 5


def test_replacing_the_programs_leaves_no_moment_without_them(
    stage: Stage, one: StubGuest, other: StubGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two guests send all the while: of one nothing arrives, of the other everything."""
    stage.allow(other)
    stage.attach(one)
    stage.attach(other)
    before = programs(stage)
    stop, sent = threading.Event(), [0, 0]

    def flood(place: int, each: StubGuest) -> None:
        while not stop.is_set():
            each.at_guest.sendto(b"flood", (each.host_address, PORT))
            sent[place] += 1
            time.sleep(0.0002)

    threads = [threading.Thread(target=flood, args=pair) for pair in enumerate((one, other))]
    for thread in threads:
        thread.start()
    for remark in ("second", "third"):
        monkeypatch.setattr(guest_hooks, "guest_text", lambda remark=remark: stub(remark))
        stage.host.call(stage.hooks.load)
    stop.set()
    for thread in threads:
        thread.join()
    after = programs(stage)
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())
    assert stage.attached() == {one.index, other.index}
    assert min(sent) > 100
    assert (arrived(one), arrived(other)) == (0, sent[1])
    for each in (one, other):
        stage.detach(each)
    stage.tables.forget(other.index)


def programs(stage: Stage) -> dict[str, int]:
    """What is pinned."""
    return {path.name: path.stat().st_ino for path in (stage.instance.directory / "programs").iterdir()}


def arrived(one: StubGuest) -> int:
    """How many datagrams wait at the host's server."""
    one.at_host.setblocking(False)
    count = 0
    while True:
        try:
            count += one.at_host.recv(100) == b"flood"
        except BlockingIOError:
            return count


def test_a_broken_text_replaces_nothing(stage: Stage, one: StubGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler's words are told, and the programs that are there go on."""
    stage.attach(one)
    before, build = programs(stage), stage.hooks.build
    monkeypatch.setattr(guest_hooks, "guest_text", lambda: stub().replace("TC_ACT_SHOT", "TC_ACT_SHUT"))
    with pytest.raises(KernelError, match="TC_ACT_SHUT"):
        stage.host.call(stage.hooks.load)
    assert (programs(stage), stage.hooks.build) == (before, build)
    assert one.send_out() == 0
    stage.allow(one)
    assert one.send_out() == 5
    stage.tables.forget(one.index)
    stage.detach(one)


@contextmanager
def accepting_program() -> Iterator[Path]:
    """A pinned program of somebody else: TC_ACT_OK, whatever comes."""
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    code = bytes((0xB7, 0, 0, 0, 0, 0, 0, 0)) + bytes((0x95, 0, 0, 0, 0, 0, 0, 0))  # r0 = 0; exit
    fd = library.bpf_prog_load(3, b"accepts_all", b"GPL", code, 2, None)
    assert fd >= 0
    pin = bpf_root() / f"accepts_all_{os.getpid()}"
    libbpf.pin(fd, str(pin))
    os.close(fd)
    try:
        yield pin
    finally:
        pin.unlink()


def test_programs_of_others_cannot_let_a_packet_pass_before_ours(stage: Stage, one: StubGuest) -> None:
    """Somebody's filter accepts everything, and was there first; it stays where it is when ours go."""
    with accepting_program() as pin:
        stage.host.command("tc", "qdisc", "add", "dev", one.name, "clsact")
        for side in ("ingress", "egress"):
            words = (side, "pref", "1", "bpf", "da", "object-pinned", str(pin))
            stage.host.command("tc", "filter", "add", "dev", one.name, *words)
    assert one.send_out() == 5
    stage.attach(one)
    assert (one.send_out(), one.send_in()) == (0, 0)
    stage.allow(one)
    assert (one.send_out(), one.send_in()) == (5, 5)
    stage.tables.forget(one.index)
    stage.detach(one)
    assert "accepts_all" in stage.host.command("tc", "filter", "show", "dev", one.name, "ingress")


def test_an_interface_that_has_gone_is_noticed_and_cleaned_up(stage: Stage, one: StubGuest) -> None:
    """The next one of the same index is not thought to be guarded, and can be."""
    stage.attach(one)
    stage.host.command("ip", "link", "del", one.name)
    assert stage.attached() == set()
    assert stage.host.call(stage.hooks.remnants) == {one.index}
    stage.host.command(
        "ip", "link", "add", one.name, "index", str(one.index), "type", "veth", "peer", "name", f"{one.name}p"
    )
    assert stage.attached() == set()
    stage.attach(one)
    assert stage.attached() == {one.index}
    stage.host.command("ip", "link", "del", one.name)
    stage.detach(one)
    assert stage.host.call(stage.hooks.remnants) == set()
    assert stage.instance.interface_pins() == []


def test_an_interface_in_another_namespace_is_none_of_ours(stage: Stage, one: StubGuest) -> None:
    """It keeps its index when it moves, and another one may have that index here."""
    stage.attach(one)
    stage.host.command("ip", "link", "set", one.name, "netns", one.inside.path)
    assert one.inside.call(lambda: socket.if_nametoindex(one.name)) == one.index
    assert stage.attached() == set()
    stage.detach(one)


def test_where_one_side_cannot_be_attached_neither_is(
    stage: Stage, one: StubGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest stays as it was, and nothing is left of the attempt; the next one succeeds."""
    real = stage.instance.program
    with open(os.devnull) as no_program, monkeypatch.context() as patch:
        programs = {"on_guest_out": real("on_guest_out"), "on_guest_in": no_program.fileno()}
        patch.setattr(stage.instance, "program", programs.__getitem__)
        with pytest.raises(KernelError, match=f"interface {one.index}"):
            stage.attach(one)
    assert stage.instance.interface_pins() == []
    assert (one.send_out(), one.send_in()) == (5, 5)
    stage.attach(one)
    assert (one.send_out(), one.send_in()) == (0, 0)
    stage.detach(one)


def test_what_cannot_be_attached_to_is_refused(stage: Stage) -> None:
    """An index that no interface has."""
    with pytest.raises(KernelError, match="interface 99999"):
        stage.host.call(lambda: stage.hooks.attach(99999))
    stage.host.call(lambda: stage.hooks.detach(99999))
    assert stage.instance.interface_pins() == []


@pytest.mark.parametrize("stage", [True], ids=["tcx"], indirect=True)  # filters of clsact have no pins
def test_pins_of_interfaces_are_mended_like_all_others(stage: Stage, one: StubGuest) -> None:
    """Whoever removes them finds the guest guarded, and them back."""
    stage.attach(one)
    pins = [stage.instance.directory / "links/interfaces" / name for name in stage.instance.interface_pins()]
    for pin in pins:
        pin.unlink()
    assert one.send_out() == 0
    assert len(stage.instance.mend("any")) == 2
    assert all(pin.exists() for pin in pins)
    assert stage.attached() == {one.index}
    stage.detach(one)
    assert one.send_out() == 5


def test_an_instance_with_guests_only_has_stamped_no_socket(stage: Stage, one: StubGuest) -> None:
    """But its programs are attached: without their maps it is to be set aside."""
    stage.attach(one)
    assert not stage.instance.is_attached()
    assert not stage.instance.has_lost_maps()
    maps = stage.instance.directory / "maps"
    (maps / "policies").rename(maps / "elsewhere")
    assert stage.instance.has_lost_maps()
    stage.detach(one)
    assert not stage.instance.has_lost_maps()
    (maps / "elsewhere").rename(maps / "policies")


def test_removing_the_instance_sets_its_guests_free(host: Namespace, stage: Stage, one: StubGuest) -> None:
    """`exeat detach` leaves no program and no qdisc behind; also after somebody has set the instance aside."""
    for is_aside in (False, True):
        name = f"guests-{os.getpid()}-{next(_NUMBERS)}"
        instance = Instance(name)
        hooks = GuestHooks(instance, uses_tcx=stage.uses_tcx)
        try:
            host.call(hooks.load)
            host.call(lambda hooks=hooks: hooks.attach(one.index))
            assert one.send_out() == 0
            if is_aside:
                instance.set_aside()
                assert one.send_out() == 0
            instance.close()
        finally:
            host.call(lambda name=name: remove_instance(name))
        assert name not in instances()
        deadline = time.monotonic() + 5
        while one.send_out(1) == 0:  # the last of a link notices its end some milliseconds later
            assert time.monotonic() < deadline
        assert (one.send_out(), one.send_in()) == (5, 5)
        assert "clsact" not in host.command("tc", "qdisc", "show", "dev", one.name)


def test_programs_are_found_by_the_next_agent_without_a_compiler(stage: Stage) -> None:
    """What is of the same build is held, and not compiled again."""
    stage.host.call(stage.hooks.load)
    again = GuestHooks(Instance(stage.instance.name), uses_tcx=stage.uses_tcx)
    assert again.is_loaded
    before = programs(stage)
    began = time.monotonic()
    again.load()
    assert programs(stage) == before
    assert time.monotonic() - began < 0.2
