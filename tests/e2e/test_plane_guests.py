"""A guest behind an interface of a node, as its plane sees it: shown by its name, under its policies, and commanded."""

from collections.abc import Iterator

import pytest

from e2e.agent_stage import START_S, say
from e2e.gatekeeper import look_up
from e2e.guest_ends import Guest, Guests, guests_of
from e2e.plane_loop_stage import Loop, open_loop
from unit.fake_plane import NODE

NOBODY4 = "203.0.113.250"  # where no resolver is


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    """The plane's one policy names interfaces, and allows the shop."""
    with open_loop() as loop:
        text = loop.stage.policy("taps", loop.stage.rules(loop.stage.shop), subject="/nowhere")
        file = loop.directory / "taps.yaml"
        file.write_text(text.replace('{cgroups: ["/nowhere"]}', '{interfaces: ["tap-*"]}'))
        loop.plane("policies", "apply", str(file), "--reason", "a test")
        loop.wait_in_force()
        yield loop


@pytest.fixture
def guests(loop: Loop) -> Iterator[Guests]:
    """None is there yet, nor does the plane know of any."""
    loop.stage.shop.reset()
    loop.stage.evil.reset()
    with guests_of(loop.stage) as guests:
        yield guests
    loop.stage.wait_until(lambda: not known(loop))


def known(loop: Loop) -> dict[str, str]:
    """The plane's workloads, and their modes."""
    return {one["name"]: one["mode"] for one in loop.ask("workloads")["workloads"]}


def came(loop: Loop, guests: Guests, name: str = "tap-1") -> Guest:
    """One that the plane has heard of."""
    guest = guests.add(name)
    loop.stage.wait_until(lambda: known(loop) == {name: "enforce"}, START_S)
    return guest


def reach(guests: Guests, guest: Guest) -> tuple[str, str]:
    """What it gets from the shop and from evil."""
    shop, evil = guests.stage.shop.address4, guests.stage.evil.address4
    return guests.call(guest, lambda: (say(shop), say(evil)))


def test_a_guest_is_shown_by_its_name_under_its_policy(loop: Loop, guests: Guests) -> None:
    """As the agent knows it; what it was denied is told and counted as of any workload."""
    stage, guest = loop.stage, came(loop, guests)
    (one,) = loop.ask("workloads")["workloads"]
    assert (one["node"], one["name"], one["cgroup"], one["policies"]) == (NODE, "tap-1", "tap-1", ["taps"])
    assert f"{NODE}/tap-1" in loop.plane("workloads").stdout
    assert reach(guests, guest) == ("hello", "ECONNREFUSED")
    assert guests.call(guest, lambda: look_up("a.evil.test", server=NOBODY4)) == []
    wanted = (f"{stage.evil.address4}:7/tcp", "a.evil.test (dns)")

    def told() -> tuple[int, int]:
        found = loop.ask("report", "--since", "1h")["workloads"]
        return next(((one["attempts"], one["denied"]) for one in found if one["name"] == "tap-1"), (0, 0))

    stage.wait_until(lambda: all(text in loop.plane("denials", "--workload", "tap-1").stdout for text in wanted))
    assert told() == (3, 2)
    assert "by the guest (198.51.100." in loop.plane("verdicts", "--workload", "tap-1").stdout
    assert stage.evil.count().is_untouched
    assert stage.shop.count().connections == 1


def test_commands_of_the_plane_reach_a_guest(loop: Loop, guests: Guests) -> None:
    """Its mode, an allowance and its end, quarantine and its end."""
    stage, guest = loop.stage, came(loop, guests, "tap-2")
    name = f"{NODE}/tap-2"
    assert reach(guests, guest) == ("hello", "ECONNREFUSED")
    loop.plane("mode", name, "monitor", "--reason", "a look")
    assert reach(guests, guest) == ("hello", "hello")
    assert known(loop) == {"tap-2": "monitor"}
    loop.plane("mode", name, "policy")
    assert reach(guests, guest) == ("hello", "ECONNREFUSED")
    loop.plane("allow", name, f"{stage.evil.address4}:7/tcp", "--for", "60", "--reason", "a look")
    assert reach(guests, guest) == ("hello", "hello")
    stage.evil.reset()
    stage.shop.reset()
    loop.plane("quarantine", name, "--reason", "it scans")
    assert reach(guests, guest) == ("ECONNREFUSED", "ECONNREFUSED")
    assert known(loop) == {"tap-2": "quarantine"}
    assert stage.evil.count().is_untouched
    assert stage.shop.count().is_untouched
    loop.plane("quarantine", name, "--lift")
    assert reach(guests, guest) == ("hello", "hello")
    (allowance,) = [one["allowance"] for one in rules(loop) if one.get("allowance")]
    loop.plane("allow", name, "--end", allowance)
    assert reach(guests, guest) == ("hello", "ECONNREFUSED")


def rules(loop: Loop) -> list[dict[str, str]]:
    """Of the one guest, as its agent tells."""
    found: list[dict[str, str]] = loop.stage.json("workloads", "tap-2")["workloads"][0]["rules"]
    return found
