"""The programs of guests beside all others: renewed by the next agent, tried by the doctor."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bed.namespace import Namespace, missing_capability
from e2e.guard import remove_cgroup
from e2e.guest_stub import guest, stub
from exeat.agent.programs import Programs
from exeat.agent.vitals import Story
from exeat.kernel import guest_hooks
from exeat.kernel.filesystems import mount_point
from exeat.kernel.instance import Instance, remove_instance
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


def test_the_doctor_tells_of_guests() -> None:
    """Whether tcx is there, and every program of tap.c."""
    found = subprocess.run(
        [sys.executable, "-m", "exeat.cli.main", "doctor"], capture_output=True, text=True, check=False, cwd=Path("/")
    ).stdout
    for word in ("tcx links", *(f"program {program.name}" for program in GUEST_PROGRAMS)):
        assert word in found
