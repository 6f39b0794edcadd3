"""The Debian packages on a clean root with systemd: installed, at work, upgraded under traffic, removed, purged."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.deb_packages import NEXT, next_version
from deploy.deb_root import REPOSITORY
from deploy.deb_stage import UNIT, DebStage, open_deb_stage
from exeat import __version__

pytestmark = pytest.mark.timeout(600)  # of the first one: a root is made, packages are built


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DebStage]:
    """A machine on which nothing of ours is installed, nor what it needs."""
    with open_deb_stage(tmp_path_factory.mktemp("deb")) as stage:
        yield stage


@pytest.fixture(scope="module")
def before(clean: DebStage) -> set[str]:
    """Every path of the machine before anything was installed."""
    return files(clean)


@pytest.fixture(scope="module")
def installed(clean: DebStage, before: set[str], packages: list[Path]) -> str:
    """What apt said when it installed exeat with all that it depends on."""
    return clean.install(packages[0])


@pytest.fixture
def stage(clean: DebStage, installed: str) -> Iterator[DebStage]:
    """The machine with an agent, and a slice under a policy."""
    if clean.machine.show(UNIT, "ActiveState") != "active":
        clean.machine.run("systemctl", "start", UNIT)
    clean.put_under_policy()
    yield clean
    clean.stop_all()


def test_it_installs_on_a_clean_root_and_its_agent_is_ready(clean: DebStage, installed: str) -> None:
    """With what it depends on, by apt. The unit is `active` only after the agent said READY."""
    assert "did not start" not in installed
    machine = clean.machine
    assert [machine.show(UNIT, what) for what in ("ActiveState", "Type", "NRestarts", "UnitFileState")] == [
        "active", "notify", "0", "enabled",
    ]  # fmt: skip
    assert clean.status()["version"] == __version__
    assert clean.status().get("complaints", []) == []
    assert "in control after" in machine.log(UNIT)
    assert machine.run("getent", "group", "exeat").stdout.startswith("exeat:")
    for group, status in (("exeat", 0), ("nogroup", FAILED)):
        somebody = ("setpriv", "--reuid=nobody", f"--regid={group}", "--clear-groups")
        assert machine.run(*somebody, "exeat", "status", check=False).returncode == status, group
    assert machine.run("dpkg", "--verify", "exeat").stdout == ""
    assert machine.run("systemctl", "--failed", "--quiet").stdout == ""


def test_the_unit_confines_the_agent_as_it_says(stage: DebStage) -> None:
    """Rights, system calls, and what it can write to, seen from inside its own mounts."""
    pid = stage.agent()
    said, of_init = (status_of(stage, one) for one in (pid, 1))
    unit = (REPOSITORY / "packaging/exeat.service").read_text()
    wanted = re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    assert wanted
    listed = stage.machine.run("setpriv", "--list-caps").stdout.split()
    has, may_have = (
        {f"CAP_{name.upper()}" for bit, name in enumerate(listed) if int(one["CapBnd"], 16) >> bit & 1}
        for one in (said, of_init)
    )
    assert has == set(wanted[1].split()) & may_have
    assert (said["CapBnd"], said["NoNewPrivs"], said["Seccomp"]) == (said["CapEff"], "1", "2")

    def can_write(place: str, *inside: str) -> bool:
        made = stage.machine.run(*inside, "touch", f"{place}/exeat-test", check=False)
        stage.machine.path(f"{place}/exeat-test").unlink(missing_ok=True)
        return made.returncode == 0

    its = ("nsenter", f"--target={pid}", "--mount", "--")
    shut = ("/usr/lib/exeat", "/etc/exeat", "/boot", "/home", "/root")
    assert [place for place in shut if can_write(place, *its)] == []
    assert [place for place in shut if not can_write(place)] == []
    assert can_write("/var/lib/exeat", *its)
    made = [stage.machine.run(*way, "mkdir", "/sys/fs/cgroup/exeat-test", check=False).returncode for way in (its, ())]
    stage.machine.run("rmdir", "/sys/fs/cgroup/exeat-test")
    assert made == [1, 0]


def test_a_python_that_it_was_not_built_for_is_told_in_a_sentence(stage: DebStage) -> None:
    """A newer release of the system, say. The agent that runs is not disturbed."""
    home = stage.machine.path("/usr/lib/exeat/lib")
    fitting = stage.machine.run(
        "python3", "-c", "import sys; print('python%d.%d' % sys.version_info[:2])"
    ).stdout.strip()
    (home / fitting).rename(home / "python3.99")
    try:
        tried = stage.machine.run("exeat", "status", check=False)
    finally:
        (home / "python3.99").rename(home / fitting)
    assert tried.returncode == 125
    assert re.fullmatch(r"exeat: /usr/bin/python3 is 3\.\d+, and this package is for .*3\.99: .*\n", tried.stderr)
    assert "Traceback" not in tried.stderr


def test_a_policy_file_is_enforced_on_units(stage: DebStage) -> None:
    """Addresses, names and questions, each denied beside an allowed one. Nobody minds what is outside the slice."""
    stage.evil.reset()
    stage.resolver.reset()
    stage.start("hammer")
    stage.machine.wait_until(lambda: len(stage.shop.count().sni) > 2)
    told = stage.stop("hammer")
    nothing_leaked(stage, told)
    assert {question.name.rstrip(".") for question in stage.resolver.questions()} == {"a.shop.test"}
    assert stage.machine.run("python3", "-c", OUTSIDE, stage.evil.address4).stdout == "sent\n"
    assert stage.evil.count().connections == 1


def test_a_killed_agent_comes_back_and_nothing_leaks_meanwhile(stage: DebStage) -> None:
    """kill -9: the kernel goes on, systemd starts another one."""
    pid = under_traffic(stage, lambda: signalled(stage, "KILL"))
    assert stage.agent() != pid


def test_an_agent_that_hangs_is_replaced_by_the_watchdog(stage: DebStage) -> None:
    """Stopped, it cannot say that its loops turn. The span is shortened, so that the test is."""
    override = stage.machine.path("/run/systemd/system/exeat.service.d/quick.conf")
    override.parent.mkdir(parents=True)
    override.write_text("[Service]\nWatchdogSec=10s\n")
    stage.machine.run("systemctl", "daemon-reload")
    stage.machine.run("systemctl", "restart", UNIT)
    try:
        under_traffic(stage, lambda: signalled(stage, "STOP"))
        assert "Watchdog timeout" in stage.machine.log(UNIT)
    finally:
        override.unlink()
        override.parent.rmdir()
        stage.machine.run("systemctl", "daemon-reload")
        stage.machine.run("systemctl", "restart", UNIT)


def test_an_upgrade_under_traffic_leaks_nothing_and_breaks_nothing(
    stage: DebStage, packages: list[Path], tmp_path: Path
) -> None:
    """Other programs in the kernel afterwards, the same connection, and the settings that somebody has made."""
    settings = stage.machine.path("/etc/exeat/exeat.yaml")
    settings.write_text(settings.read_text().replace("keep: 8", "keep: 7"))
    old = stage.status()["programs"]
    newer = next_version(packages[0], tmp_path)
    under_traffic(stage, lambda: stage.install(newer))
    stage.machine.wait_until(lambda: stage.status().get("programs", old) != old)
    status = stage.status()
    assert (status["version"], status["programs"]) == (NEXT, status["own_programs"])
    assert status.get("complaints", []) == []
    assert "keep: 7" in settings.read_text()
    assert stage.machine.show(UNIT, "UnitFileState") == "enabled"


def test_a_plane_is_installed_beside_it_and_runs_as_nobody(
    stage: DebStage, packages: list[Path], tmp_path: Path
) -> None:
    """Installed without certificates it waits; with them it starts, as a user of its own and without rights."""
    machine = stage.machine
    plane = next_version(packages[1], tmp_path) if stage.status()["version"] == NEXT else packages[1]
    stage.install(plane)
    unit = "exeat-plane.service"
    assert [machine.show(unit, what) for what in ("ActiveState", "UnitFileState")] == ["inactive", "disabled"]
    certificate = stage.bed.authority.certificate("plane.test")
    user, group = (int(machine.run("id", which, "exeat-plane").stdout) for which in ("-u", "-g"))
    for source, name in ((certificate.chain, "plane.crt"), (certificate.key, "plane.key")):
        target = machine.path(f"/etc/exeat/{name}")
        target.write_bytes(Path(source).read_bytes())
        os.chown(target, user, group)
    machine.path("/etc/exeat/agents-ca.crt").write_bytes(Path(certificate.chain).read_bytes())
    assert machine.run("systemctl", "start", unit, check=False).returncode == 0, machine.log(unit)
    pid = machine.show(unit, "MainPID")
    said = machine.path(f"/proc/{pid}/status").read_text()
    assert re.search(rf"^Uid:\t{user}\t{user}\t{user}\t{user}$", said, re.MULTILINE)
    assert re.search(r"^CapEff:\t0+$", said, re.MULTILINE)
    assert machine.path("/var/lib/exeat-plane/plane.db").exists()
    assert machine.run("python3", "-c", HEALTH).stdout == "200\n"


def test_it_is_not_removed_while_a_command_runs_under_it(stage: DebStage) -> None:
    """`exeat run` needs its own files to end what it began."""
    policy = "/etc/exeat/policies.d/coder.yaml"
    stage.machine.run(
        "systemd-run", "--quiet", "--collect", "--unit=longer", "exeat", "run", "--policy", policy, "--", "sleep", "600"
    )
    stage.machine.wait_until(lambda: bool(list(stage.machine.path("/run/exeat/runs").glob("run-*"))))
    tried = stage.machine.run("apt-get", "-y", "remove", "exeat", check=False)
    assert tried.returncode != 0
    assert "still runs: end it, then remove the package" in tried.stderr + tried.stdout
    stage.machine.run("systemctl", "stop", "longer")
    assert stage.machine.show(UNIT, "ActiveState") == "active"


def test_removed_it_enforces_on_and_installed_again_it_takes_over(stage: DebStage, packages: list[Path]) -> None:
    """Whoever removes a package has not said that workloads may go where they like."""
    stage.evil.reset()
    said = stage.apt("remove", "exeat")
    assert "purge the package to let go of them" in said
    assert not stage.machine.path("/usr/bin/exeat").exists()
    assert stage.say(stage.evil.address4) == "PermissionError"
    assert stage.say(stage.shop.address4) == "sent"
    stage.install(packages[0])
    assert stage.machine.show(UNIT, "ActiveState") == "active"
    stage.put_under_policy()
    assert stage.say(stage.evil.address4) == "PermissionError"
    assert stage.evil.count().is_untouched
    assert not stage.machine.path("/var/lib/exeat/purge").exists()


def test_purged_it_leaves_nothing(stage: DebStage, before: set[str]) -> None:
    """No file, no pin, no process, no user, no address; and then nothing is denied."""
    machine = stage.machine
    assert traces(stage, before)  # now there are many
    stage.evil.reset()
    assert stage.say(stage.evil.address4) == "PermissionError"
    known = machine.run(
        "dpkg-query", "--show", "--showformat=${Package} ", "exeat", "exeat-plane", check=False
    ).stdout.split()
    said = stage.apt("purge", *known)
    assert "agent enforces no more" in said
    assert stage.say(stage.evil.address4) == "sent"
    assert stage.evil.count().connections == 1
    assert not (left := traces(stage, before)), left
    assert not machine.path("/sys/fs/bpf/exeat").exists()
    assert [name for name in ("exeat", "exeat-plane") if f"\n{name}:" in machine.path("/etc/group").read_text()] == []
    assert "exeat" not in machine.path("/etc/passwd").read_text()
    assert "169.254.101.120" not in stage.bed.network.client.command("ip", "addr", "show", "lo")
    assert processes(stage) == []
    assert machine.run("systemctl", "--failed", "--quiet").stdout == ""
    assert machine.run("dpkg-query", "--show", "exeat", check=False).returncode == 1


FAILED = 4  # docs/exit-codes.md: the agent cannot be asked
OUTSIDE = "import socket, sys; s = socket.create_connection((sys.argv[1], 7), 5); s.sendall(b'out'); print('sent')"
HEALTH = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9471/healthz', timeout=5).status)"
# What installing and removing anything at all leaves, and what belongs to nobody: caches, logs, compiled modules.
_OF_OTHERS = re.compile(
    r"/(proc|sys|dev|run|tmp|srv)/|/var/(log/(apt|journal|dpkg\.log|alternatives\.log)|cache|lib/(dpkg|apt|systemd/timers|pam))"
    r"|/etc/(alternatives|ld\.so\.cache|\.pwd\.lock|(group|gshadow|passwd|shadow)-)|/(usr/)?lib/python3.*/__pycache__"
    r"|/usr/share/python3.*/__pycache__|/etc/(inputrc|python3|hosts|networks)|/usr/local/lib/python3|/var/lib/python"
)


def status_of(stage: DebStage, pid: int) -> dict[str, str]:
    """What the kernel says of a process."""
    lines = stage.machine.path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def under_traffic(stage: DebStage, happens: Any) -> int:
    """Has something happen while a connection is open and another unit tries everything; the agent's pid before it."""
    stage.evil.reset()
    stage.start("hold")
    stage.start("hammer")
    pid = stage.agent()
    happens()
    stage.wait_for_agent(pid)
    stage.machine.wait_until(lambda: stage.status().get("version") is not None)
    seen = len(stage.shop.count().sni)
    stage.machine.wait_until(lambda: len(stage.shop.count().sni) > seen + 2)  # names are resolved again
    held, told = stage.stop("hold"), stage.stop("hammer")
    assert held["failures"] == []
    assert held["echoes"] > 50
    nothing_leaked(stage, told)
    return pid


def signalled(stage: DebStage, name: str) -> None:
    """Sends the agent a signal."""
    stage.machine.run("systemctl", "kill", "--kill-whom=main", f"--signal={name}", UNIT)


def nothing_leaked(stage: DebStage, told: dict[str, int]) -> None:
    """By what the client and the hosts say; what is allowed has always worked."""
    assert stage.evil.count().is_untouched, told
    assert "a.evil.test" not in stage.shop.count().sni
    assert {word for word in told if word.startswith("allowed")} == {"allowed tcp sent", "allowed name answered"}, told
    assert told.keys() - {"allowed tcp sent", "allowed name answered"} == {
        "denied tcp PermissionError", "denied udp PermissionError", "denied name PermissionError",
        "denied question gaierror",
    }, told  # fmt: skip
    assert min(told.values()) > 2


def files(stage: DebStage) -> set[str]:
    """Every path of the machine's own file system, as it is seen inside."""
    root = stage.machine.path("/")
    device = root.stat().st_dev
    found = set()
    for folder, below, names in os.walk(root):
        inside = "/" + os.path.relpath(folder, root).removeprefix(".")
        below[:] = [name for name in below if os.lstat(os.path.join(folder, name)).st_dev == device]
        found.update(os.path.join(inside, name) for name in (*below, *names))
    return found


def traces(stage: DebStage, before: set[str]) -> list[str]:
    """What was not there before, of no package that is still installed; and whatever has our name."""
    lists = stage.machine.path("/var/lib/dpkg/info").glob("*.list")
    owned = {one for listed in lists for one in listed.read_text().split("\n")}
    owned |= {f"/usr{one}" for one in owned}  # /lib is /usr/lib
    new = files(stage) - before
    named = {one for one in new if "exeat" in one and not one.startswith("/srv/")}
    return sorted({one for one in new - owned if not _OF_OTHERS.match(one)} | named)


def processes(stage: DebStage) -> list[str]:
    """Those of ours that run in the machine, by their command lines."""
    pids = [pid for procs in stage.machine.cgroup.rglob("cgroup.procs") for pid in procs.read_text().split()]
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() for pid in pids]
    return [line for line in lines if re.search(r"(^|/| )exeat(-agent)?( |$)|/usr/lib/exeat|exeat\.cli", line)]
