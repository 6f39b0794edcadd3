"""Guests behind interfaces as workloads of a real agent: found, registered, asked about, let go, over its restarts."""

import json
import socket
from collections.abc import Iterator

import pytest

from bed.namespace import Namespace
from e2e.agent_stage import INSTANCE, NO_RUNTIMES, SETTINGS, START_S, AgentStage, open_agent_stage, say
from e2e.gatekeeper import look_up
from e2e.guest_ends import Guest, Guests, guests_of
from exeat.kernel.guest_abi import INTERFACE_BIT
from exeat.kernel.guest_hooks import GuestHooks
from exeat.kernel.instance import Instance

MANAGED = '  interfaces: {{managed: ["vault-*"]}}\n'
NOBODY4 = "203.0.113.250"  # where no resolver is


def interface_policy(stage: AgentStage, name: str, pattern: str, rules: str) -> str:
    """A policy whose subject names interfaces."""
    text = stage.policy(name, rules, subject="/nowhere")
    return text.replace('{cgroups: ["/nowhere"]}', f"{{interfaces: {json.dumps([pattern])}}}")


@pytest.fixture(scope="module")
def running() -> Iterator[AgentStage]:
    """One agent for the module, whose settings have it judge `vault-*` in any case."""
    with open_agent_stage() as stage:
        (stage.directory / "exeat.yaml").write_text((SETTINGS + MANAGED).format(stage.directory, NO_RUNTIMES))
        stage.write("shop", stage.policy("shop", stage.rules(stage.shop), subject="/nowhere/shop"))
        web = stage.rules(stage.shop) + stage.names("a.shop.test")
        stage.write("taps", interface_policy(stage, "taps", "tap-*", web))
        stage.start()
        yield stage


@pytest.fixture
def guests(running: AgentStage) -> Iterator[Guests]:
    """Of a stage without the guests of the test before."""
    running.shop.reset()
    running.evil.reset()
    if running.process is None:
        running.start()
    with guests_of(running) as guests:
        yield guests
    running.wait_until(lambda: not names(running))


def names(stage: AgentStage) -> list[str]:
    """The workloads' names."""
    return [one["name"] for one in stage.json("workloads").get("workloads", [])]


def shown(stage: AgentStage, name: str) -> dict[str, object]:
    """What is known of one."""
    one: dict[str, object] = stage.json("workloads", name)["workloads"][0]
    return one


def judged(guests: Guests, name: str) -> Guest:
    """A guest whose interface a policy or the settings name, bound."""
    guest = guests.add(name)
    guests.stage.wait_until(lambda: name in names(guests.stage), START_S)  # the compiler may have to be waited for
    return guest


def reached(guests: Guests, guest: Guest) -> str:
    """Which of the two hosts a guest reaches, and that the others received nothing."""
    stage = guests.stage
    found = []
    for host in (stage.shop, stage.evil):
        host.reset()
        said = {guests.call(guest, lambda address=address: say(address)) for address in host.addresses[:2]}
        assert said in ({"hello"}, {"ECONNREFUSED"}), said
        assert bool(host.count().connections) is (said == {"hello"})
        found += [host.name] if said == {"hello"} else []
    return "+".join(found)


def attached(stage: AgentStage) -> set[int]:
    """Indexes of the interfaces that programs of the agent's are attached to."""
    return stage.bed.network.client.call(lambda: GuestHooks(Instance(INSTANCE)).attached())


def index_of(guests: Guests, guest: Guest) -> int:
    """Of the host's side."""
    return guests.stage.bed.network.client.call(lambda: socket.if_nametoindex(guest.name))


def test_an_interface_that_a_policy_names_is_judged_as_it_comes(guests: Guests) -> None:
    """Its workload is called as it is; what its programs learnt of the guest is shown."""
    guest = judged(guests, "tap-1")
    assert reached(guests, guest) == "shop"
    one = shown(guests.stage, "tap-1")
    assert (one["name"], one["cgroup"], one["policies"], one["source"]) == ("tap-1", "", ["taps"], "subject")
    assert int(str(one["id"])) & INTERFACE_BIT
    assert one["guest"]["mac"] == guest.mac  # type: ignore[index]
    assert f"{guest.mac}, {guest.address4}" in guests.stage.exeat("workloads", "tap-1").stdout


def test_attach_puts_a_guest_under_a_policy_and_unregister_lets_it_go(guests: Guests) -> None:
    """An interface that nobody names is nobody's workload, before and after."""
    stage, guest = guests.stage, guests.add("tun-1")
    assert reached(guests, guest) == "shop+evil"
    assert "by tcx" in stage.exeat("attach", "tun-1", "--policy", "shop", "--label", "session=4").stdout
    assert shown(stage, "tun-1")["labels"] == {"session": "4"}
    assert reached(guests, guest) == "shop"
    stage.exeat("unregister", "tun-1")
    assert (names(stage), index_of(guests, guest) in attached(stage)) == ([], False)
    assert reached(guests, guest) == "shop+evil"


def test_a_registration_without_a_policy_denies_everything(guests: Guests) -> None:
    """So does a name in the agent's settings, until a policy is said; and its end is no opening."""
    stage, one, two = guests.stage, guests.add("tun-1"), judged(guests, "vault-1")
    stage.exeat("register", "silent", "--interface", "tun-1")
    assert (reached(guests, one), reached(guests, two)) == ("", "")
    assert shown(stage, "vault-1")["policies"] == ["no-policy"]
    stage.exeat("attach", "vault-1", "--policy", "shop")
    assert reached(guests, two) == "shop"
    stage.exeat("unregister", "vault-1")
    assert reached(guests, two) == ""


def test_what_is_said_of_a_guest_is_all_that_it_may_be(guests: Guests) -> None:
    """Its own address, twin of another one of the same network that the guest gives itself."""
    stage, guest = guests.stage, guests.add("tun-1")
    words = ("--mac", guest.mac, "--address", guest.address4, "--address", guest.address6, "--no-dhcp")
    text = stage.exeat("attach", "tun-1", "--policy", "shop", *words).stdout
    assert f"{guest.mac}, {guest.address4}, {guest.address6}" in text
    assert reached(guests, guest) == "shop"
    stage.exeat("attach", "tun-1", "--policy", "shop", "--address", "198.51.100.254", "--address", guest.address6)
    stage.shop.reset()
    assert guests.call(guest, lambda: say(stage.shop.address6)) == "hello"
    assert guests.call(guest, lambda: quickly(stage.shop.address4)) == "silent"
    assert stage.shop.count().connections == 1


def quickly(address: str) -> str:
    """`silent` where nothing comes back within a second."""
    try:
        socket.create_connection((address, 7), 1).close()
    except TimeoutError:
        return "silent"
    return "open"


REFUSED = [
    (("nosuch0",), 1, "there is no interface nosuch0 in the agent's network namespace"),
    (("lo",), 1, "lo carries no Ethernet frames"),
    (("../tun-1", "--name", "x"), 2, "say which interface, by its name"),
    (("tun-1", "--mac", "02:00"), 2, "is no MAC address"),
    (("tun-1", "--mac", "01:00:5e:00:00:01"), 2, "group's MAC address"),
    (("tun-1", "--address", "198.51.100.300"), 2, "198.51.100.300"),
    (("tun-1", "--address", "127.0.0.1"), 2, "127.0.0.1"),
    (("tun-1", "--gateway-mac", "x"), 2, "is no MAC address"),
    (("tun-1", "--address", "198.51.100.200"), 1, "198.51.100.200 is the address of another guest, behind tun-2:"),
    (("tun-1", "--policy", "nosuch"), 1, "there is no policy nosuch"),
    (("tun-1", "--name", "other"), 1, "other is the name of tun-2 already"),
]


def test_what_cannot_be_meant_is_refused_with_a_sentence(guests: Guests) -> None:
    """And changes nothing: the interface is nobody's workload, as before."""
    stage, guest = guests.stage, guests.add("tun-1")
    guests.add("tun-2")
    stage.exeat("attach", "tun-2", "--name", "other", "--address", "198.51.100.200")
    for words, status, sentence in REFUSED:
        done = stage.exeat("attach", *words, check=False)
        assert (done.returncode, done.stdout) == (status, "")
        assert sentence in done.stderr
        assert (names(stage), index_of(guests, guest) in attached(stage)) == (["other"], False)
    assert stage.json("status")["complaints"] == []


def test_words_about_a_guest_are_refused_for_a_cgroup(guests: Guests) -> None:
    """It has no MAC address."""
    stage = guests.stage
    cgroup = stage.cgroup("no-guest")
    done = stage.exeat("register", "x", "--cgroup", stage.path(cgroup), "--mac", "02:00:00:00:00:01", check=False)
    assert (done.returncode, names(stage)) == (2, [])
    assert "addresses are said of the guest behind an interface" in done.stderr


def test_a_failed_change_of_words_leaves_the_guest_as_it_was(guests: Guests) -> None:
    """Judged by what was said before."""
    stage, guest = guests.stage, guests.add("tun-1")
    words = ("--mac", guest.mac, "--address", guest.address4, "--address", guest.address6)
    stage.exeat("attach", "tun-1", "--policy", "shop", *words)
    before = shown(stage, "tun-1")
    assert stage.exeat("attach", "tun-1", "--address", "::1", check=False).returncode == 2
    now = shown(stage, "tun-1")
    assert {**now, "traffic": 0, "since": 0} == {**before, "traffic": 0, "since": 0}
    assert reached(guests, guest) == "shop"


def test_modes_allowances_and_quarantine_hold_for_guests(guests: Guests) -> None:
    """As for a cgroup, by its name or the interface's."""
    stage, guest = guests.stage, judged(guests, "tap-1")
    for mode, expected in (("monitor", "shop+evil"), ("open", "shop+evil"), ("quarantine", ""), ("policy", "shop")):
        stage.exeat("mode", "tap-1", mode)
        assert reached(guests, guest) == expected, mode
    for address in stage.evil.addresses[:2]:
        stage.exeat("allow", "tap-1", f"[{address}]:7/tcp", "--for", "1h", "--reason", "TICKET-7")
    assert reached(guests, guest) == "shop+evil"
    stage.exeat("quarantine", "tap-1", "--reason", "odd")
    assert (reached(guests, guest), shown(stage, "tap-1")["mode"]) == ("", "MODE_QUARANTINE")
    stage.exeat("quarantine", "tap-1", "--lift")
    assert reached(guests, guest) == "shop+evil"


def test_names_grants_explanations_and_verdicts_of_a_guest(guests: Guests) -> None:
    """It asks somebody who is not there, and the gate answers."""
    stage, guest = guests.stage, judged(guests, "tap-11")
    assert guests.call(guest, lambda: look_up("a.shop.test", server=NOBODY4)) == [stage.shop.address4]
    assert guests.call(guest, lambda: look_up("a.evil.test", server=NOBODY4)) == []
    assert "a.shop.test" in stage.exeat("grants", "tap-11").stdout
    assert stage.exeat("explain", "tap-11", "a.shop.test").stdout.startswith(f"allowed at {stage.shop.address4}")
    loopback = stage.exeat("explain", "tap-11", "127.0.0.1:80/tcp", check=False).stdout
    assert loopback.startswith("denied")
    assert "itself listens" not in loopback
    guests.call(guest, lambda: say(stage.evil.address4))
    stage.wait_until(lambda: f"denied: tcp {stage.evil.address4}:7" in verdicts(stage, "tap-11"))
    lines = [line for line in verdicts(stage, "tap-11").splitlines() if stage.evil.address4 in line]
    assert all(" tap-11 denied: " in line for line in lines)
    assert "a.evil.test" in verdicts(stage, "tap-11")
    judged(guests, "tap-110")
    assert verdicts(stage, "tap-110") == ""
    judged(guests, "tap-1")
    assert "tap-11" not in verdicts(stage, "tap-1")  # whose name is the beginning of the other's


def verdicts(stage: AgentStage, name: str) -> str:
    """Of one workload."""
    return stage.exeat("verdicts", "--workload", name).stdout


def test_a_policy_that_changes_holds_for_guests_at_once(guests: Guests) -> None:
    """Its file is written anew; a new policy names an interface that was there before."""
    stage, guest, other = guests.stage, judged(guests, "tap-1"), guests.add("late-1")
    assert (reached(guests, guest), reached(guests, other)) == ("shop", "shop+evil")
    taps = (stage.directory / "policies.d" / "taps.yaml").read_text()
    try:
        stage.write("taps", interface_policy(stage, "taps", "tap-*", stage.rules(stage.evil)))
        late = stage.write("late", interface_policy(stage, "late", "late-?", stage.rules(stage.shop)))
        stage.exeat("reload")
        assert (reached(guests, guest), reached(guests, other)) == ("evil", "shop")
        late.unlink()
        stage.exeat("reload")
        assert (names(stage), reached(guests, other)) == (["tap-1"], "shop+evil")
    finally:
        stage.write("taps", taps)
        stage.exeat("reload")


def test_a_label_selects_guests_too(guests: Guests) -> None:
    """Of those that were registered with it."""
    stage, guest = guests.stage, guests.add("tun-1")
    text = stage.policy("labelled", stage.rules(stage.evil), subject="/x")
    text = text.replace('{cgroups: ["/x"]}', "{labels: {a: b}}")
    path = stage.write("labelled", text)
    try:
        stage.exeat("reload")
        stage.exeat("attach", "tun-1", "--label", "a=b", "--ttl", "2s")
        assert reached(guests, guest) == "evil"
        stage.wait_until(lambda: not names(stage))
        assert reached(guests, guest) == "shop+evil"
    finally:
        path.unlink()
        stage.exeat("reload")


def test_an_interface_that_goes_takes_everything_along(guests: Guests) -> None:
    """Registration, allowances, tables; another one of its name and index begins anew."""
    stage, guest = guests.stage, guests.add("tun-1", index=7001)
    stage.exeat("attach", "tun-1", "--policy", "shop", "--address", guest.address4, "--address", guest.address6)
    assert reached(guests, guest) == "shop"
    guests.remove(guest)
    stage.wait_until(lambda: not names(stage))
    assert 7001 not in attached(stage)
    again = guests.add("tun-1", index=7001)
    assert reached(guests, again) == "shop+evil"
    stage.exeat("attach", "tun-1", "--policy", "shop", "--address", again.address4, "--address", again.address6)
    assert reached(guests, again) == "shop"


def test_a_registered_interface_may_be_renamed(guests: Guests) -> None:
    """It is the same guest under another name; a policy that names the old one is not its any more."""
    stage, guest, found = guests.stage, guests.add("tun-1"), judged(guests, "tap-1")
    stage.exeat("attach", "tun-1", "--name", "coder", "--policy", "shop")
    guests.rename(guest, "tun-9")
    guests.rename(found, "tun-8")
    stage.wait_until(lambda: names(stage) == ["coder"] and shown(stage, "coder")["guest"]["interface"] == "tun-9")  # type: ignore[index]
    assert (reached(guests, guest), reached(guests, found)) == ("shop", "shop+evil")


def attached_to(guests: Guests, name: str) -> Guest:
    """A guest whose addresses are said, under the policy that allows the shop."""
    guest = guests.add(name)
    words = ("--address", guest.address4, "--address", guest.address6)
    guests.stage.exeat("attach", name, "--policy", "shop", *words)
    assert reached(guests, guest) == "shop"
    return guest


def on_host(guests: Guests, *lines: str) -> None:
    """Commands of `ip` in the agent's namespace."""
    guests.stage.bed.network.client.command("ip", "-batch", "-", stdin="\n".join(lines))


def follows(guests: Guests, guest: Guest) -> str:
    """Waits until a guest gets through again, whose neighbours have changed; whom it reaches."""
    shop = guests.stage.shop.address4

    def is_through() -> bool:
        guest.namespace.command("ip", "neigh", "flush", "dev", "eth0")
        return guests.call(guest, lambda: quickly(shop)) == "open"

    guests.stage.wait_until(is_through, 10)
    return reached(guests, guest)


def test_an_interface_that_moves_to_another_namespace_is_a_workload_no_more(guests: Guests) -> None:
    """Nothing of ours goes along. Where it comes back, it is one that nobody has named."""
    stage, guest = guests.stage, attached_to(guests, "tun-1")
    index, elsewhere = index_of(guests, guest), Namespace()
    try:
        on_host(guests, f"link set tun-1 netns {elsewhere.path}")
        stage.wait_until(lambda: not names(stage))
        assert index not in attached(stage)
        elsewhere.command("ip", "link", "set", "tun-1", "netns", stage.bed.network.client.path)
        on_host(
            guests, f"addr add {guest.gateway4}/30 dev tun-1", f"addr add {guest.gateway6}/64 dev tun-1 nodad",
            "link set tun-1 up",
        )  # fmt: skip
        assert follows(guests, guest) == "shop+evil"
        assert names(stage) == []
    finally:
        elsewhere.close()


def test_a_new_mac_address_of_the_interface_is_followed_and_one_of_the_guest_is_not(guests: Guests) -> None:
    """Frames go to the host by its address. The guest's was fixed by its first frame."""
    stage, guest = guests.stage, attached_to(guests, "tun-1")
    on_host(guests, "link set tun-1 address 02:00:5e:00:53:21")
    assert follows(guests, guest) == "shop"
    guest.namespace.command("ip", "link", "set", "eth0", "address", "02:00:5e:00:53:22")
    stage.shop.reset()
    assert guests.call(guest, lambda: quickly(stage.shop.address4)) == "silent"
    assert stage.shop.count().connections == 0
    guest.namespace.command("ip", "link", "set", "eth0", "address", guest.mac)
    assert follows(guests, guest) == "shop"


def test_a_bridge_that_an_interface_joins_changes_or_leaves_is_followed(guests: Guests) -> None:
    """The addresses are the bridge's then, and frames go to its MAC address."""
    stage, guest = guests.stage, attached_to(guests, "tun-1")
    addresses = (f"{guest.gateway4}/30", f"{guest.gateway6}/64")

    def move(before: str, after: str) -> list[str]:
        """The host's addresses."""
        return [f"addr del {one} dev {before}" for one in addresses] + [
            f"addr add {one} dev {after}{' nodad' if ':' in one else ''}" for one in addresses
        ]

    try:
        for number, (before, after) in enumerate((("tun-1", "one0"), ("one0", "two0"))):
            on_host(
                guests, f"link add {after} address 02:00:5e:00:53:3{number} type bridge", f"link set {after} up",
                f"link set tun-1 master {after}", *move(before, after),
            )  # fmt: skip
            assert follows(guests, guest) == "shop"
        on_host(guests, "link set two0 address 02:00:5e:00:53:39")
        assert follows(guests, guest) == "shop"
        on_host(guests, "link set tun-1 nomaster", *move("two0", "tun-1"))
        assert follows(guests, guest) == "shop"
        assert names(stage) == ["tun-1"]
    finally:
        for name in ("one0", "two0"):
            stage.bed.network.client.command("ip", "link", "del", name)


def test_without_an_agent_guests_are_judged_and_the_next_one_takes_them_over(guests: Guests) -> None:
    """Killed, as by a crash. What went meanwhile is forgotten, what came is judged from the start."""
    stage, found, registered = guests.stage, judged(guests, "tap-1"), guests.add("tun-1")
    going = guests.add("tun-2", index=7002)
    for name in ("tun-1", "tun-2"):
        stage.exeat("attach", name, "--policy", "shop")
    stage.kill()
    assert (reached(guests, found), reached(guests, registered), reached(guests, going)) == ("shop", "shop", "shop")
    guests.remove(going)
    another, late = guests.add("tun-2", index=7002), guests.add("tap-2")
    stage.start()
    assert names(stage) == ["tap-1", "tap-2", "tun-1"]
    assert [reached(guests, one) for one in (found, registered, late, another)] == ["shop"] * 3 + ["shop+evil"]
    assert attached(stage) == {index_of(guests, one) for one in (found, registered, late)}
    assert stage.json("status")["complaints"] == []


def test_what_nobody_wants_any_more_is_let_go_at_the_next_start(guests: Guests) -> None:
    """Its policy went while no agent ran. Twin: where a policy cannot be read, nobody is let go."""
    stage, guest = guests.stage, judged(guests, "tap-1")
    path = stage.directory / "policies.d" / "taps.yaml"
    text = path.read_text()
    stage.stop()
    path.write_text("nonsense: [")
    try:
        stage.start()
        assert reached(guests, guest) == "shop"
        stage.stop()
        path.unlink()
        stage.start()
        assert (names(stage), attached(stage), reached(guests, guest)) == ([], set(), "shop+evil")
    finally:
        stage.write("taps", text)
        stage.exeat("reload")
