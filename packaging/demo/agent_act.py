"""The second half of what `make run` shows: an agent keeps a workload under its policy, and is killed.

Everything of it has a place of its own: directories, pins and a cgroup, which go at the end.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from time import monotonic, sleep

from bed import Bed, Host, run_in, start_in
from exeat.kernel.filesystems import mount_point
from exeat.kernel.instance import remove_instance

EXEAT = (sys.executable, "-m", "exeat.cli.main")
START_S = 30.0
SETTINGS = """\
apiVersion: exeat.dev/v1
kind: AgentSettings
spec:
  policies: {0}/policies.d
  state: {0}/lib
  runtime: {0}/run
  log: {{directory: {0}/log}}
  metrics: {{listen: off}}
"""


@dataclass(frozen=True)
class Scene:
    """One thing that is done. `in_workload`: by the workload, and not by its operator."""

    title: str
    line: str
    shows: tuple[str, ...] = ()
    hides: tuple[str, ...] = ()
    in_workload: bool = False


@dataclass
class Act:
    """The agent's place."""

    bed: Bed
    directory: Path
    cgroup: Path
    instance: str
    pid: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """What commands of exeat's need to find this agent, and curl the test hosts' authority."""
        return {
            "EXEAT_SOCKET": f"{self.directory}/run/agent.sock",
            "EXEAT_INSTANCE": self.instance,
            "CURL_CA_BUNDLE": str(self.bed.authority.ca_file),
        }

    def start(self) -> None:
        """Starts the agent and waits until it answers."""
        line = [*EXEAT, "agent", "--config", str(self.directory / "exeat.yaml")]
        with (self.directory / "out").open("a") as out:
            self.pid = start_in(self.bed, line, env=self.environment, stdout=out, stderr=out).pid
        deadline = monotonic() + START_S
        while run_in(self.bed, [*EXEAT, "status"], env=self.environment).returncode not in (0, 1):
            if monotonic() > deadline:
                raise TimeoutError(f"the agent does not answer: {(self.directory / 'out').read_text()}")
            sleep(0.1)

    def kill(self) -> None:
        """As a crash does."""
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)

    def do(self, scene: Scene) -> str:
        """Shows what is typed and what is seen."""
        print(f"    {'workload' if scene.in_workload else 'operator'} $ {scene.line}", flush=True)
        line = scene.line.replace("exeat ", " ".join(EXEAT) + " ", 1) if scene.line.startswith("exeat ") else scene.line
        cgroup = self.cgroup if scene.in_workload else None
        ran = run_in(self.bed, ["sh", "-c", line], cgroup=cgroup, env=self.environment, timeout=START_S)
        output = ran.stdout + ran.stderr
        for told in output.splitlines():
            print(fill(told, width=112, initial_indent="      ", subsequent_indent="        ", break_on_hyphens=False))
        return output


@contextmanager
def open_act(bed: Bed) -> Iterator[Act]:
    """Directories, a policy whose subject is a cgroup, and the cgroup; no agent runs yet."""
    root = mount_point("cgroup2")
    assert root
    cgroup = root / f"exeat-demo-{os.getpid()}"
    cgroup.mkdir()
    directory = Path(tempfile.mkdtemp(prefix="exeat-demo-"))
    (directory / "policies.d").mkdir()
    (directory / "exeat.yaml").write_text(SETTINGS.format(directory))
    policy = Path("packaging/demo/policy.yaml").read_text().replace("name: demo", "name: shoppers")
    subject = f'spec:\n  subject: {{cgroups: ["/{cgroup.name}"]}}'
    (directory / "policies.d" / "demo.yaml").write_text(policy.replace("spec:", subject, 1))
    act = Act(bed, directory, cgroup, f"demo-{os.getpid()}")
    try:
        yield act
    finally:
        remove_instance(act.instance)
        shutil.rmtree(directory, ignore_errors=True)
        (cgroup / "cgroup.kill").write_text("1")
        cgroup.rmdir()


def scenes(allowed: Host, denied: Host) -> Iterator[Scene]:
    """The story; the agent is killed before the third, and started anew before the fifth."""
    curl = "curl -sS --stderr - -m 5"
    yield Scene("The agent has found a cgroup that the policy's subject names.", "exeat workloads", shows=("shoppers",))
    yield Scene(
        "What a rule allows is reached.", f"{curl} https://{allowed.name}/", (f"I am {allowed.name}",), (), True
    )
    yield Scene(
        "The agent is killed (SIGKILL). What was resolved goes on ...",
        f"{curl} --resolve {allowed.name}:443:{allowed.address4} https://{allowed.name}/",
        (f"I am {allowed.name}",),
        (),
        True,
    )
    yield Scene(
        "... and what was denied stays denied, by the kernel alone.",
        f"{curl} --resolve {denied.name}:443:{denied.address4} https://{denied.name}/",
        ("connect",),
        ("I am",),
        True,
    )
    yield Scene(
        "The next agent takes over what it finds, and tells what was denied meanwhile.",
        "exeat verdicts --since 1m --verdict DROPPED",
        shows=(f"denied: tcp {denied.address4}:443",),
    )
    yield Scene(
        "Which rule decides, by the tables in the kernel?",
        f"exeat explain demo {allowed.name}",
        shows=("allowed at",),
    )


def play_act(act: Act, allowed: Host, denied: Host, first: int) -> str | None:
    """Plays it; why it did not show what it says, or None."""
    denied.reset()
    for number, scene in enumerate(scenes(allowed, denied), first):
        if number == first + 2:
            act.kill()
        if number == first + 4:
            act.start()
        print(f"{fill(f'{number}. {scene.title}', width=112, subsequent_indent='   ')}\n")
        output = act.do(scene)
        print(flush=True)
        missing = [wanted for wanted in scene.shows if wanted not in output]
        unwanted = [one for one in scene.hides if one in output]
        if missing or unwanted:
            return f"in step {number}, {missing} should have been seen, and {unwanted} not"
    received = denied.count().bytes
    print(f"    {denied.name} received {received} bytes.\n", flush=True)
    act.kill()
    return f"{denied.name} received {received} bytes" if received else None
