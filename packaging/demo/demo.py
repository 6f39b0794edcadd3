"""What `make run` shows: one policy, three TLS hosts, the same curl; and what each host really received.

The hosts live in a network namespace of their own that goes with this program; nothing touches the machine's network.
"""

import os
import sys
import threading
from pathlib import Path
from shlex import join
from textwrap import fill

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from bed import Bed, Host, Tls, missing_capability, run_in  # noqa: E402  # found by the line above

POLICY = "packaging/demo/policy.yaml"
EXEAT = (sys.executable, "-m", "exeat.cli.main")
TIME_LIMIT_S = 55.0
ANSWER = "I am shop.example"


def main() -> int:
    """Shows it; 1 and a sentence if it is not what it should be."""
    if missing := missing_capability():
        return complain(missing)
    os.chdir(ROOT)
    with Bed() as bed:
        shop = bed.add("shop.example")
        thief = bed.add("thief.example", Tls(names=("shop.example", "thief.example")))
        stranger = bed.add("stranger.example", Tls(names=("shop.example", "stranger.example")))
        show_policy(shop, thief, stranger)
        output = [
            step(bed, "1. The right name at the right address: allowed.", "shop.example", shop),
            step(bed, "2. Another name at an address that is allowed: denied by SNI.", "thief.example", thief),
            step(bed, "3. The right name at an address that is not: denied by address.", "shop.example", stranger),
        ]
        print("What the three servers themselves have counted:\n")
        for host in (shop, thief, stranger):
            counts = host.count()
            print(f"    {host.name:17} {counts.connections} connections, {counts.bytes:4} bytes received")
        print()
        return judge(output, [host.count().bytes for host in (shop, thief, stranger)])


def show_policy(*hosts: Host) -> None:
    """The file as it is, and who is who."""
    print(f"Three TLS servers: {', '.join(f'{host.name} at {host.address4}' for host in hosts)}.")
    print(f"One policy, {POLICY}:\n")
    text = Path(POLICY).read_text()
    print("\n".join(f"    {line}" for line in text[text.index("  egress:") :].splitlines()) + "\n")


def step(bed: Bed, title: str, name: str, host: Host) -> str:
    """Runs curl under the policy, and shows what a person at the terminal types and sees."""
    # curl writes its error letter by letter: into the same pipe as exeat's lines, the two would mix.
    command = f"curl -sS --connect-to ::{host.address4} https://{name}/ 2>&1"
    print(f"{title}\n\n    $ exeat run --policy {POLICY} -- \\\n        sh -c {join([command])}", flush=True)
    line = [*EXEAT, "run", "--policy", POLICY, "--", "sh", "-c", command]
    ran = run_in(bed, line, env={"CURL_CA_BUNDLE": str(bed.authority.ca_file)}, timeout=TIME_LIMIT_S)
    output = ran.stdout + ran.stderr
    for told in output.splitlines():
        print(fill(told, width=112, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False))
    print(flush=True)
    return output


def judge(output: list[str], received: list[int]) -> int:
    """Whether the demo showed what it says."""
    if ANSWER not in output[0] or received[0] == 0:
        return complain("the allowed server should have answered, and did not")
    if "[name_not_allowed; policy demo]" not in output[1] or ANSWER in output[1]:
        return complain("the second server should have been denied by its name, and was not")
    if "[address_not_allowed; policy demo]" not in output[2] or ANSWER in output[2]:
        return complain("the third server should have been denied by its address, and was not")
    if received[1:] != [0, 0]:
        return complain("the denied servers should have received nothing, and did")
    return 0


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
