"""A stage for guides: what docs/ tells a reader to type is typed, in one shell, and what it shows must come.

A block of a guide that begins with ```console is a script: its first line begins with `# ` or `$ `, and all lines that
do are typed (with those of a here document, and after a backslash). The others must be seen; `...` stands for some that
need not be. Times, sizes, hashes and process ids may be others; counts may not. Blocks of any other kind are not run.

The shell has root's rights, the bed's network, an /etc of its own (its changes are gone with it), and hosts called
api.models.example, pypi.example, files.pypi.example, telemetry.example and evil.example. Of systemd there is as much as
guides use: `systemctl start exeat`, and `systemd-run --scope --slice=agents.slice --unit=NAME COMMAND`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bed import Bed, Dns, Host, Tls, missing_capability, start_in
from e2e.guard import remove_cgroup
from e2e.left_over import end_what_was_left
from exeat.control.client import trouble_at
from exeat.kernel.filesystems import mount_point
from exeat.kernel.instance import remove_instance

DOCS = Path(__file__).parents[2] / "docs"
NAMES = ("api.models.example", "pypi.example", "files.pypi.example", "telemetry.example", "evil.example")
LIMIT_S, START_S = 150.0, 120.0  # the compiler may have to share the machine
MARK = "\x1e"  # before each command's output
_OTHERWISE = (  # in another run
    (re.compile(r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\dZ?"), "TIME"),
    (re.compile(r"\b(?=\w*\d)[0-9a-f]{7,}\b"), "HASH"),
    (re.compile(r"\[\d+\]"), "[PID]"),
    (re.compile(r"\b[1-9]\d* bytes out, [1-9]\d* in\b"), "SIZE bytes out, SIZE in"),
    (re.compile(r"\b[1-9][\d.]* (?:[KMG]i)?B(?!\S)"), "SIZE"),
)
_SETTINGS = """\
apiVersion: exeat.dev/v1
kind: AgentSettings
spec:
  policies: {0}/policies.d
  state: {0}/lib
  runtime: {0}/run
  log: {{directory: {0}/log}}
  metrics: {{listen: off}}
  interfaces: {{managed: ["tap-*"]}}
  runtimes: {{docker: off, podman: off, cri: off}}
"""
_SHELL = """\
set -eu
mount -t tmpfs none {0}/etc && mkdir {0}/etc/upper {0}/etc/work
mount -t overlay -o lowerdir=/etc,upperdir={0}/etc/upper,workdir={0}/etc/work none /etc
rm -f /etc/resolv.conf && cp {0}/resolv.conf /etc/resolv.conf
rm -rf /etc/exeat && mkdir -p /etc/exeat/policies.d
mount --bind {0}/policies.d /etc/exeat/policies.d
systemctl() {{ test "$2" = exeat && case $1 in start | restart) ;; *) false ;; esac; }}  # it runs, with these settings
cd {0}/home
set +eu
"""
_SYSTEMD_RUN = """\
#!/bin/sh
# --scope --slice=agents.slice --unit=NAME [--uid=..] COMMAND
for word; do case $word in --unit=*) unit=${{word#--unit=}};; --*) ;; *) break;; esac; shift; done
mkdir -p {0}/$unit.scope && echo 0 >{0}/$unit.scope/cgroup.procs || exit
for try in $(seq 100); do  # docs/limits.md: no_gate
    exeat workloads /{1}/$unit.scope -o json 2>&1 | grep -q '"gates"' && break
    sleep 0.1
done
exec "$@"
"""
_SLEEP = """\
#!/bin/sh
# Where a guide waits for what it has begun; this machine may have other things to do.
case $1 in [0-9]) exec /bin/sleep $(($1 * 4));; *) exec /bin/sleep "$@";; esac
"""
_SUDO = """\
#!/bin/sh
while case ${1-} in -*) true;; *) false;; esac; do shift; done
exec env SUDO_UID=65534 SUDO_GID=65534 SUDO_USER=nobody "$@"
"""


@dataclass(frozen=True, slots=True)
class Typed:
    """One command of a guide, and what the guide says comes of it."""

    command: str
    shown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GuideStage:
    """Where a guide is followed."""

    bed: Bed
    hosts: dict[str, Host]
    directory: Path
    slice: Path
    agents: list[subprocess.Popen[str]] = field(default_factory=list)

    def reset(self) -> None:
        """Counts from nothing."""
        for host in self.hosts.values():
            host.reset()

    def bytes_of(self, name: str) -> int:
        """What a host has received."""
        return self.hosts[name].count().bytes

    def follow(self, commands: Sequence[str], environment: dict[str, str] | None = None) -> list[str]:
        """Types the commands into one shell; what each wrote."""
        script = _SHELL.format(self.directory)
        for number, command in enumerate(commands):
            text = self.directory / f"command-{number}"
            text.write_text(command.replace("agents.slice", self.slice.name))
            script += f'printf "{MARK}"; (exit "${{status-0}}"); eval "$(cat {text})"; status=$?\n'
        out = self.directory / "typed.out"
        with out.open("w") as writer:
            process = start_in(
                self.bed, ["unshare", "--mount", "bash", "-c", script], stdout=writer, stderr=writer,
                stdin=subprocess.DEVNULL, env={**self._environment(), **(environment or {})},
            )  # fmt: skip
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"not done after {LIMIT_S:.0f} s: {out.read_text()}") from None
        said = out.read_text().replace(self.slice.name, "agents.slice").replace(str(self.directory), "/etc/exeat")
        before, *written = said.split(MARK)
        assert not before, before
        return written

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.directory}/bin:{os.environ['PATH']}",
            "HOME": f"{self.directory}/home",
            "EXEAT_SOCKET": f"{self.directory}/run/agent.sock",
            "EXEAT_INSTANCE": self.instance,
            "CURL_CA_BUNDLE": str(self.bed.authority.ca_file),
            "NO_COLOR": "1",
        }

    @property
    def instance(self) -> str:
        """Of the agent's pins."""
        return f"guide-{os.getpid()}"

    def begin(self) -> None:
        """An agent that knows nothing yet; the programs of the one before are taken over, and nothing is compiled."""
        for process in self.agents:
            process.kill()
            process.wait()
            self.bed.disown(process)
        self.agents.clear()
        for name in ("lib", "run", "log", "policies.d", "home"):
            shutil.rmtree(self.directory / name, ignore_errors=True)
        for name in ("policies.d", "home"):
            (self.directory / name).mkdir()
        (self.directory / "home").chmod(0o777)
        for scope in self.slice.glob("*.scope"):
            remove_cgroup(scope)
        self.reset()
        self._start()

    def _start(self) -> None:
        out = self.directory / "agent.out"
        resolv = self.directory / "resolv.conf"
        resolv.write_text(f"nameserver {self.hosts['resolver'].address4}\n")
        line = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(resolv)]
        line += [sys.executable, "-m", "exeat.cli.main", "agent", "--config", str(self.directory / "exeat.yaml")]
        with out.open("w") as writer:
            process = start_in(self.bed, line, stdout=writer, stderr=writer, env=self._environment())
        self.agents.append(process)
        until = time.monotonic() + START_S
        while trouble_at(self.directory / "run" / "agent.sock"):
            assert process.poll() is None, out.read_text()
            assert time.monotonic() < until, out.read_text()
            time.sleep(0.05)

    def close(self) -> None:
        """Leaves nothing behind."""
        self.bed.close()  # the agent first: it would attach again
        remove_instance(self.instance)
        remove_cgroup(self.slice)


@contextmanager
def open_guide_stage() -> Iterator[GuideStage]:
    """The stage, or a skip with a sentence."""
    if missing := missing_capability():
        pytest.skip(missing)
    root = mount_point("cgroup2")
    assert root
    end_what_was_left(instance="guide-{}", cgroup=r"agents-{}\.slice", directory="exeat-guide-{}-")
    with tempfile.TemporaryDirectory(prefix=f"exeat-guide-{os.getpid()}-") as place, Bed() as bed:
        directory = Path(place)
        directory.chmod(0o755)
        for name in ("bin", "etc"):
            (directory / name).mkdir()
        hosts = {name: bed.add(name, Tls()) for name in NAMES}
        hosts["resolver"] = bed.add("resolver", Dns({name: host.addresses for name, host in hosts.items()}))
        stage = GuideStage(bed, hosts, directory, root / f"agents-{os.getpid()}.slice")
        (directory / "exeat.yaml").write_text(_SETTINGS.format(directory))
        for name, text in {
            "exeat": f'#!/bin/sh\nexec {sys.executable} -m exeat.cli.main "$@"\n',
            "systemd-run": _SYSTEMD_RUN.format(stage.slice, stage.slice.name),
            "sleep": _SLEEP,
            "sudo": _SUDO,
            "apt-get": "#!/bin/sh\nexit 0\n",
        }.items():
            (directory / "bin" / name).write_text(text)
            (directory / "bin" / name).chmod(0o755)
        stage.slice.mkdir()
        try:
            yield stage
        finally:
            stage.close()


def typed_in(guide: str) -> list[Typed]:
    """What a guide types, in its order."""
    found: list[Typed] = []
    for block in re.findall(r"^```console\n(.*?)^```$", (DOCS / guide).read_text(), re.MULTILINE | re.DOTALL):
        lines = block.splitlines()
        prompt = block[:2]
        assert prompt in ("# ", "$ "), f"{guide}: `{lines[0]}` stands where a command must"
        while lines:
            command = lines.pop(0)
            typed = [command[2:]]
            end = re.search(r"<<'?(\w+)'?", command)
            while typed[-1].endswith("\\") or (end and typed[-1] != end[1]):
                typed.append(lines.pop(0))
            shown: list[str] = []
            while lines and not lines[0].startswith(prompt):
                shown.append(lines.pop(0))
            found.append(Typed("\n".join(typed), tuple(shown)))
    return found


def plain(line: str) -> str:
    """A line without what another run writes otherwise, and with single spaces."""
    for pattern, word in _OTHERWISE:
        line = pattern.sub(word, line)
    return " ".join(line.split())


def missing_from(output: str, shown: Sequence[str]) -> list[str]:
    """The lines shown that were not seen. In whatever order: here both streams go to a file, and wait in buffers."""
    seen = {plain(line) for line in output.splitlines()}
    return [line for line in shown if line.strip() not in ("", "...") and plain(line) not in seen]
