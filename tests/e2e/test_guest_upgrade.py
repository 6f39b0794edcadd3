"""The programs of guests beside all others: renewed by the next agent, tried by the doctor."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bed.namespace import Namespace, missing_capability
from e2e.guard import remove_cgroup
from e2e.guest_stub import guest, place, stub
from exeat.agent.programs import Programs
from exeat.agent.vitals import Story
from exeat.errors import KernelError
from exeat.kernel import guest_hooks, libbpf
from exeat.kernel import instance as instance_module
from exeat.kernel.compiling import compile_and_pin
from exeat.kernel.filesystems import mount_point
from exeat.kernel.guest_hooks import GuestHooks
from exeat.kernel.guests import GuestTables
from exeat.kernel.instance import Instance, remove_instance
from exeat.kernel.pins import opened, remove_pins
from exeat.kernel.programs import GUEST_PROGRAMS


def test_an_agent_that_takes_over_renews_the_guests_programs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the background, like all others; they judge before, after, and all the while."""
    if missing := missing_capability():
        pytest.skip(missing)
    host, name = Namespace(), f"guests-{os.getpid()}-upgrade"
    instances = Instance(name), Instance(name)
    root = mount_point("cgroup2")
    assert root
    (root / name).mkdir()
    monkeypatch.setattr(guest_hooks, "guest_text", stub)
    try:
        with guest(host) as one:
            first = Programs(instances[0], Story())
            first.prepare(root / name)
            assert not first.guests.is_loaded, "there were no guests"
            assert one.send_out() == 5
            host.call(first.guests.load)
            host.call(lambda: first.guests.attach(one.index))
            monkeypatch.setattr(guest_hooks, "guest_text", lambda: stub("newer"))
            second = Programs(instances[1], Story())
            second.prepare(root / name)
            before = second.guests.build
            assert one.send_out() == 0
            host.call(second.upgrade)
            assert second.guests.build not in (None, before)
            assert host.call(second.guests.attached) == {one.index}
            assert one.send_out() == 0
    finally:
        for instance in instances:
            instance.close()
        host.call(lambda: remove_instance(name))
        remove_cgroup(root / name)
        host.close()


@pytest.mark.parametrize("times", [1, 99])
def test_pins_removed_while_the_compiler_runs_never_leave_programs_with_other_tables(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: compiled again. Each time: the older programs stay. Tables and guests are as before, and it is told."""
    if missing := missing_capability():
        pytest.skip(missing)
    host, made = Namespace(), Instance(f"guests-{os.getpid()}-unpinned")
    hooks, tables = GuestHooks(made), GuestTables(made)
    monkeypatch.setattr(guest_hooks, "guest_text", stub)
    left = [times]

    def disturbed(maps: Path, *more: Any) -> dict[str, str]:
        if left[0] > 0:
            left[0] -= 1
            remove_pins(maps)
        return compile_and_pin(maps, *more)

    try:
        with guest(host) as allowed, guest(host) as denied:
            host.call(hooks.load)
            for one in (allowed, denied):
                host.call(lambda index=one.index: hooks.attach(index))
            tables.put(allowed.index, place())
            build, ids = hooks.build, map_ids(made)
            monkeypatch.setattr(guest_hooks, "guest_text", lambda: stub("newer"))
            monkeypatch.setattr(instance_module, "compile_and_pin", disturbed)
            if times == 1:
                host.call(hooks.load)
            else:
                with pytest.raises(KernelError, match="removed pins"):
                    host.call(hooks.load)
            assert (hooks.build == build) == (times > 1)
            assert (allowed.send_out(), denied.send_out()) == (5, 0)
            tables.put(denied.index, place())
            assert denied.send_out() == 5, "the programs have the tables that we write"
            assert map_ids(made) == ids
            assert set(made.mend("any")) == {f"maps/{name}" for name in ids}
            assert made.mend("any") == []
    finally:
        made.close()
        host.call(lambda: remove_instance(made.name))
        host.close()


def map_ids(made: Instance) -> dict[str, int]:
    """The kernel's numbers of the tables that are pinned."""
    found = {}
    for pin in (made.directory / "maps").iterdir():
        with opened(pin) as fd:
            found[pin.name] = libbpf.map_id(fd)
    return found


def test_the_doctor_tells_of_guests() -> None:
    """Whether tcx is there, and every program of tap.c."""
    found = subprocess.run(
        [sys.executable, "-m", "exeat.cli.main", "doctor"], capture_output=True, text=True, check=False, cwd=Path("/")
    ).stdout
    for word in ("tcx links", *(f"program {program.name}" for program in GUEST_PROGRAMS)):
        assert word in found
