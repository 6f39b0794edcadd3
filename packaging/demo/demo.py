"""What `make run` shows: one policy, five hosts, everyday clients; and what each host really received.

The hosts live in a network namespace of their own that goes with this program; nothing touches the machine's network.
"""

import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import join
from textwrap import fill

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from agent_act import Act, open_act, play_act  # noqa: E402  # found by the line above, as is the bed

from bed import Bed, Dns, Host, Tls, missing_capability, run_in  # noqa: E402

POLICY = "packaging/demo/policy.yaml"
EXEAT = (sys.executable, "-m", "exeat.cli.main")
TIME_LIMIT_S = 110.0
CURL = "curl -sS --stderr -"  # its error is written letter by letter: in the pipe of exeat's lines, the two would mix


@dataclass(frozen=True)
class Cast:
    """Who plays."""

    resolver: Host
    shop: Host
    paper: Host
    thief: Host
    rogue: Host

    @property
    def sites(self) -> tuple[Host, ...]:
        """Those that speak TLS."""
        return self.shop, self.paper, self.thief

    def reset(self) -> None:
        """Counts from nothing."""
        for host in (self.resolver, *self.sites, self.rogue):
            host.reset()


@dataclass(frozen=True)
class Step:
    """One thing that a command tries. `shows` must stand in what is seen, and `hides` must not.

    `reached`: the hosts that may receive bytes; the others must not. `asked`: the names that may reach the resolver.
    """

    title: str
    command: str
    shows: tuple[str, ...]
    hides: tuple[str, ...] = ()
    reached: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()


def main() -> int:
    """Shows it; 1 and a sentence if it is not what it should be."""
    if missing := missing_capability():
        return complain(missing)
    os.chdir(ROOT)
    with Bed() as bed:
        cast = put_up(bed)
        show_policy(cast)
        with open_act(bed) as act:
            print("An agent is started: exeat agent. (Without one, exeat run loads programs for its command alone.)\n")
            act.start()
            for number, step in enumerate(steps(cast), 1):
                cast.reset()
                output = play(act, f"{number}. {step.title}", step)
                print(f"    Received: {', '.join(received(cast))}.\n", flush=True)
                for failure in failures(cast, step, output):
                    return complain(f"in step {number}, {failure}")
            failure = play_act(act, cast.shop, cast.thief, number + 1)
    return complain(failure) if failure else 0


def put_up(bed: Bed) -> Cast:
    """The hosts. Each site would serve the others' names as well, if only it were asked."""
    names = ("shop.example", "paper.example", "thief.example")
    resolver = bed.add("resolver", Dns())
    shop, paper, thief = (bed.add(name, Tls(names=names)) for name in names)
    rogue = bed.add("rogue resolver", Dns({name: [thief.address4] for name in names}))
    resolver.set_zone({host.name: [host.address4] for host in (shop, paper, thief)})
    return Cast(resolver, shop, paper, thief, rogue)


def show_policy(cast: Cast) -> None:
    """The file as it is, and who is who."""
    print(f"Three TLS servers: {', '.join(f'{host.name} at {host.address4}' for host in cast.sites)}.")
    print(f"A resolver at {cast.resolver.address4} that knows them, and another at {cast.rogue.address4} that lies.")
    print(f"One policy, {POLICY}:\n")
    text = Path(POLICY).read_text()
    print("\n".join(f"    {line}" for line in text[text.index("  dns:") :].splitlines()) + "\n")


def steps(cast: Cast) -> Iterator[Step]:
    """The story."""
    shop, paper, thief = (host.name for host in cast.sites)
    yield Step(
        "A name that a rule allows: it is resolved, its address opens, and TLS to that name passes.",
        f"{CURL} https://{shop}/",
        shows=(f"I am {shop}",),
        reached=(shop,),
        asked=(shop,),
    )
    yield Step(
        "A name that no rule allows: it does not resolve, and who asks is told why. The resolver is not asked.",
        f"{CURL} https://{thief}/; dig +noall +comments {thief} | grep -e status -e EDE",
        shows=("Could not resolve host", "status: NXDOMAIN", "EDE: 15", "[name_not_allowed; policy demo]"),
        hides=("I am",),
    )
    yield Step(
        "An allowed name, sent to the address of another allowed one: denied, a name belongs to its own addresses.",
        f"{CURL} https://{shop}/; {CURL} --connect-to ::{paper} https://{shop}/",
        shows=(f"I am {shop}", "[name_elsewhere; policy demo]"),
        hides=(f"I am {paper}",),
        reached=(shop,),
        asked=(shop, paper),
    )
    yield Step(
        "Another name, sent to an address that is open: denied by the ClientHello, before a byte of it has left.",
        f"{CURL} --connect-to ::{paper} https://{thief}/",
        shows=("[name_not_allowed; policy demo]",),
        hides=("I am",),
        asked=(paper,),
    )
    yield Step(
        "An address out of the program's own text: denied at connect, exeat has resolved nothing to it.",
        f"{CURL} --resolve {shop}:443:{cast.thief.address4} https://{shop}/",
        shows=("[not_resolved; policy demo]",),
        hides=("I am",),
    )
    yield Step(
        "A DNS server of the command's own choosing: the question goes to exeat all the same, and so does its answer.",
        f"dig +noall +answer +stats @{cast.rogue.address4} {shop} | grep -e IN -e SERVER",
        shows=(cast.shop.address4, f"SERVER: {cast.rogue.address4}#53"),
        hides=(cast.thief.address4,),
        asked=(shop,),
    )


def play(act: Act, title: str, step: Step) -> str:
    """Runs the command under the policy, and shows what a person at the terminal types and sees."""
    is_shell = any(mark in step.command for mark in ";|")
    argv = ["sh", "-c", step.command] if is_shell else step.command.split()
    print(f"{fill(title, width=112, subsequent_indent='   ')}\n\n    $ exeat run --policy {POLICY} -- \\")
    print("        " + join(argv).replace("; ", f";\n{' ' * 15}"), flush=True)
    line = [*EXEAT, "run", "--policy", POLICY, "--", *argv]
    ran = run_in(act.bed, line, env=act.environment, timeout=TIME_LIMIT_S)
    output = ran.stdout + ran.stderr
    for told in output.splitlines():
        print(fill(told, width=112, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False))
    return output


def received(cast: Cast) -> Iterator[str]:
    """What the hosts themselves have counted."""
    for host in cast.sites:
        yield f"{host.name} {host.count().bytes} bytes"
    yield f"the resolver {len(cast.resolver.questions())} questions"
    yield f"the rogue {len(cast.rogue.questions())}"


def failures(cast: Cast, step: Step, output: str) -> Iterator[str]:
    """Why the demo did not show what it says."""
    for wanted in step.shows:
        if wanted not in output:
            yield f"{wanted!r} should have been seen, and was not"
    for unwanted in step.hides:
        if unwanted in output:
            yield f"{unwanted!r} was seen, and should not have been"
    for host in cast.sites:
        if (host.count().bytes > 0) != (host.name in step.reached):
            yield f"{host.name} received {host.count().bytes} bytes"
    if {asked.name for asked in cast.resolver.questions()} != set(step.asked):
        yield "other names than that should have reached the resolver"
    if not cast.rogue.count().is_untouched:
        yield "the rogue resolver should have heard nothing, and did"


def complain(sentence: str) -> int:
    """The way this program fails."""
    print(f"demo: {sentence}", file=sys.stderr)
    return 1


def give_up() -> None:
    """What hangs is ended: the namespaces and the commands in them die with this process."""
    complain(f"not done after {TIME_LIMIT_S:.0f} s, so it was ended")
    os._exit(1)


if __name__ == "__main__":
    watchdog = threading.Timer(TIME_LIMIT_S, give_up)
    watchdog.daemon = True
    watchdog.start()
    sys.exit(main())
