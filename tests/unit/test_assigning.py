"""What a workload is under, while its runtime is silent and when it has told who it is."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from exeat.agent.assigning import NOBODYS, Assigning
from exeat.agent.roll import Roll
from exeat.agent.sessions import Sessions
from exeat.agent.shelf import Given, Held, Shelf
from exeat.agent.wishes import Registration, Wish, Wishes
from exeat.kernel.guest_abi import INTERFACE_BIT
from exeat.model.identity import Container, Identity, Pod
from exeat.model.policy import Mode, Pods, Policy, Subject
from exeat.session_settings import SessionSettings
from unit.fake_runtime import BARE, ID, OF_DOCKER, OF_POD, UID, FakeRuntime, met, socket_at, until
from unit.session_words import Orchestrator, write_keys

pytestmark = pytest.mark.usefixtures("impatient")

CODER = Subject(images=("*/coder",))
WALL = (NOBODYS, Mode.ENFORCE)
NODE = {"zone": "a"}


@dataclass
class Places:
    """A roll of workloads that are where a test says."""

    paths: dict[int, str]
    managed: tuple[str, ...] = ()

    def path_of(self, workload: int) -> str | None:
        """See Roll."""
        return self.paths.get(workload)

    def is_managed(self, path: str) -> bool:
        """See Roll."""
        return path in self.managed


class Stage:
    """Workload 7, at one place, and what decides what it is under. Its runtime is silent until it is let answer."""

    def __init__(self, place: Path, *policies: Policy, path: str = OF_DOCKER) -> None:
        self.runtime = FakeRuntime(socket_at(place / "s"), None)
        self.runtime.gate.clear()
        identities, self.news = met(place, self.runtime)
        self.places = Places({7: path})
        self.wishes = Wishes(place / "wishes")
        self.orchestrator = Orchestrator()
        write_keys(place / "keys", self.orchestrator)
        self.sessions = Sessions(SessionSettings(place / "keys"))
        shelf = Shelf(place / "policies", place / "copies")
        shelf.give(Given(tuple(Held("", policy, policy.name) for policy in policies)))
        roll = cast(Roll, self.places)
        self.assigning = Assigning(shelf, self.wishes, roll, identities, self.sessions, NODE)
        self.assigning.arrange(policies)

    def under(self, workload: int = 7) -> tuple[tuple[str, Mode], ...]:
        """Its policies and their modes; none: nobody judges it."""
        assigned = self.assigning.assigned(workload)
        return tuple((policy.name, policy.mode) for policy in assigned.policies) if assigned else ()

    async def becomes(self, container: Container | None, pod: Pod | None = None) -> None:
        """Its runtime tells who it is."""
        self.runtime.answers = [Identity(container, pod)]
        self.runtime.gate.set()
        self.under()
        await until(lambda: self.news)

    def register(self, **labels: str) -> None:
        """Somebody names it `mine`."""
        self.wishes.put(7, Wish(self.places.paths[7], Registration("mine", labels=labels)))

    def begin_session(self, until_s: int) -> None:
        """Alice's."""
        token = self.orchestrator.token(sub="mine", exp=until_s)
        context = self.sessions.accept(token, ("mine",), None, "uid 0")
        self.wishes.put(7, Wish(self.places.paths[7], session=context))


def policy(subject: Subject, mode: Mode = Mode.ENFORCE, name: str = "one", expires: datetime | None = None) -> Policy:
    """One without rules."""
    return Policy(name, mode=mode, subject=subject, expires=expires)


def container(image: str = "acme/coder", **doubtful: str) -> Container:
    """Docker's, of such an image, which brings such labels."""
    return Container("docker", ID, "web", image, doubtful=tuple(doubtful.items()))


@pytest.mark.parametrize(
    ("mode", "wall"),
    [
        (Mode.ENFORCE, Mode.ENFORCE),
        (Mode.QUARANTINE, Mode.ENFORCE),
        (Mode.MONITOR, Mode.MONITOR),
        (Mode.OPEN, Mode.MONITOR),
    ],
)
def test_who_is_not_known_waits_behind_a_wall_as_strict_as_the_policy_that_asks(
    tmp_path: Path, mode: Mode, wall: Mode
) -> None:
    """And is under that policy, or nobody's, as soon as it is known. Who holds nobody back complains of nothing."""

    async def go() -> None:
        for image, then in (("acme/coder", (("one", mode),)), ("acme/other", ())):
            (tmp_path / image).mkdir(parents=True)
            stage = Stage(tmp_path / image, policy(CODER, mode))
            assert stage.under() == ((NOBODYS, wall),)
            complaints = stage.assigning.complaints
            assert [one.partition(",")[0] for one in complaints] == (
                ["it is not known who 1 container is"] if wall is Mode.ENFORCE else []
            )
            await stage.becomes(container(image))
            assert stage.under() == then
            assert stage.assigning.complaints == []

    asyncio.run(go())


def test_the_strictest_policy_that_asks_makes_the_wall(tmp_path: Path) -> None:
    """Whatever the others would let out."""

    async def go() -> None:
        lax = policy(CODER, Mode.MONITOR, "lax")
        stage = Stage(tmp_path, lax, policy(Subject(pods=Pods("ml")), name="strict"))
        assert stage.under() == (WALL,)

    asyncio.run(go())


@pytest.mark.parametrize(
    ("subject", "path", "is_walled"),
    [
        (Subject(images=("*",), cgroups=("/docker/*",)), OF_DOCKER, True),
        (Subject(images=("*",), cgroups=("/docker/*",)), BARE, False),
        (Subject(images=("*",), cgroups=("/a/*", "/machine/*")), BARE, True),
        (Subject(images=("*",), nodes=(("zone", "a"),)), OF_DOCKER, True),
        (Subject(images=("*",), nodes=(("zone", "b"),)), OF_DOCKER, False),
        (Subject(labels=(("agent", "coder"),)), OF_DOCKER, True),
        (Subject(labels=(("agent", "coder"),), interfaces=("tap-*",)), OF_DOCKER, False),
        (Subject(session=(("user", "alice"),)), OF_DOCKER, False),
        (Subject(images=("*",)), "/system.slice/nginx.service", False),
    ],
)
def test_only_a_policy_that_could_be_for_it_walls_a_container_in(
    tmp_path: Path, subject: Subject, path: str, is_walled: bool
) -> None:
    """One for another place, node or kind of workload says nothing of it, whoever it is."""

    async def go() -> None:
        stage = Stage(tmp_path, policy(subject), path=path)
        assert stage.under() == ((WALL,) if is_walled else ())

    asyncio.run(go())


def test_labels_alone_wall_containers_in_only_where_a_runtime_has_listened(tmp_path: Path) -> None:
    """Elsewhere they are meant for what is registered. Images and pods are a container's in any case."""

    async def go() -> None:
        labels = policy(Subject(labels=(("agent", "coder"),)))
        stage = Stage(tmp_path, labels)
        stage.runtime.socket.unlink()
        assert stage.assigning.identities.is_awaited(7, OF_DOCKER)
        assert (stage.under(), stage.assigning.complaints) == ((), [])
        stage.assigning.arrange([labels, policy(Subject(pods=Pods("ml")), name="pods")])
        assert stage.under() == (WALL,)
        stage.assigning.arrange([labels])
        stage.runtime.socket.touch()
        assert stage.under() == (WALL,)
        stage.runtime.socket.unlink()
        assert stage.under() == (WALL,)
        assert stage.assigning.complaints

    asyncio.run(go())


def test_what_somebody_named_or_manages_is_denied_everything_where_no_policy_fits(tmp_path: Path) -> None:
    """Beside it, what nobody named is nobody's."""

    async def go() -> None:
        stage = Stage(tmp_path, policy(Subject(cgroups=("/elsewhere",))), path="/a/b")
        tap = INTERFACE_BIT | 5
        stage.places.paths[tap] = "tap-5"
        assert (stage.under(), stage.under(tap), stage.under(8)) == ((), (), ())
        stage.register()
        stage.places.managed = ("tap-5",)
        assert (stage.under(), stage.under(tap)) == ((WALL,), (WALL,))

    asyncio.run(go())


@pytest.mark.parametrize(("own", "is_judged"), [("", True), ("/a/c", True), ("/a/b", False)])
def test_the_agents_own_cgroup_is_judged_by_no_policy(tmp_path: Path, own: str, is_judged: bool) -> None:
    """It would cut itself off."""

    async def go() -> None:
        stage = Stage(tmp_path, policy(Subject(cgroups=("/a/*",))), path="/a/b")
        stage.assigning.own = own
        assert stage.under() == ((("one", Mode.ENFORCE),) if is_judged else ())

    asyncio.run(go())


def test_an_agent_in_the_root_exempts_nobody(tmp_path: Path) -> None:
    """Who writes a policy for all means all."""

    async def go() -> None:
        stage = Stage(tmp_path, policy(Subject(cgroups=("/",))), path="/")
        stage.assigning.own = "/"
        assert stage.under() == (("one", Mode.ENFORCE),)

    asyncio.run(go())


def test_labels_of_an_image_choose_no_policy_and_leave_nobody_without_one(tmp_path: Path) -> None:
    """Nobody can tell who meant them; and it is told."""

    async def go() -> None:
        stage = Stage(tmp_path, policy(Subject(labels=(("agent", "coder"),))))
        await stage.becomes(container(agent="coder"))
        assert stage.under() == (WALL,)
        why = "the image brings labels that select one, and they do not count: set others"
        assert stage.assigning.why_unknown(7) == why

    asyncio.run(go())


@pytest.mark.parametrize(("theirs", "then"), [("other", ()), ("coder", (("one", Mode.ENFORCE),))])
def test_a_label_that_is_the_pods_own_counts_whatever_the_image_brings(
    tmp_path: Path, theirs: str, then: tuple[tuple[str, Mode], ...]
) -> None:
    """Its author has said who it is: it is no matter of doubt any more."""

    async def go() -> None:
        stage = Stage(tmp_path, policy(Subject(labels=(("agent", "coder"),))), path=OF_POD)
        image_says = {"coder": "other", "other": "coder"}[theirs]
        await stage.becomes(container(agent=image_says), Pod("ml", "p", UID, (("agent", theirs),)))
        assert stage.under() == then
        assert stage.assigning.why_unknown(7) == ""

    asyncio.run(go())


def test_a_label_that_was_registered_counts_whatever_the_image_brings(tmp_path: Path) -> None:
    """No doubt is told of it."""

    async def go() -> None:
        stage = Stage(tmp_path, policy(Subject(labels=(("agent", "coder"),))))
        await stage.becomes(container(agent="coder"))
        stage.register(agent="other")
        assert (stage.under(), stage.assigning.why_unknown(7)) == ((WALL,), "")
        stage.register(agent="coder")
        assert (stage.under(), stage.assigning.why_unknown(7)) == ((("one", Mode.ENFORCE),), "")

    asyncio.run(go())


def test_a_laxer_policy_that_fits_takes_nothing_from_the_wall(tmp_path: Path) -> None:
    """A baseline that only watches would open what another policy may deny; one as strict as the wall needs none."""

    async def go() -> None:
        for mode in (Mode.MONITOR, Mode.ENFORCE):
            (tmp_path / mode).mkdir()
            baseline = policy(Subject(cgroups=("/docker/*",)), mode, "baseline")
            stage = Stage(tmp_path / mode, baseline, policy(Subject(labels=(("agent", "coder"),))))
            wall = (WALL,) if mode is Mode.MONITOR else ()
            assert stage.under() == (("baseline", mode), *wall)
            await stage.becomes(container(agent="coder"))
            assert stage.under() == (("baseline", mode), *wall)
            stage.register(agent="other")
            assert stage.under() == (("baseline", mode),)

    asyncio.run(go())


def test_a_policy_that_quarantines_is_a_wall_beside_one_that_enforces(tmp_path: Path) -> None:
    """Once it fits, nothing that the other one allows is allowed: so it is while nobody can say."""

    async def go() -> None:
        for mode in (Mode.ENFORCE, Mode.MONITOR):
            (tmp_path / mode).mkdir()
            baseline = policy(Subject(cgroups=("/docker/*",)), mode, "baseline")
            stage = Stage(tmp_path / mode, baseline, policy(Subject(labels=(("agent", "coder"),)), Mode.QUARANTINE))
            assert stage.under() == (("baseline", mode), (NOBODYS, Mode.QUARANTINE))
            await stage.becomes(container(agent="coder"))
            assert stage.under() == (("baseline", mode), (NOBODYS, Mode.QUARANTINE))
            stage.register(agent="other")
            assert stage.under() == (("baseline", mode),)

    asyncio.run(go())


def test_a_policy_in_rollout_that_fits_is_no_wall(tmp_path: Path) -> None:
    """It only watches this workload, whatever other labels the image has, and though nobody has said who it is."""

    async def go() -> None:
        rollout = replace(policy(Subject(labels=(("agent", "coder"),))), rollout_percent=0)
        stage = Stage(tmp_path, rollout)
        assert stage.under() == (WALL,)  # it may be among those whom it judges already
        stage.register(agent="coder")
        assert stage.under() == (("one", Mode.ENFORCE),)
        await stage.becomes(container(maintainer="somebody"))
        assert stage.under() == (("one", Mode.ENFORCE),)

    asyncio.run(go())


def test_an_images_label_under_a_policy_in_rollout_is_watched_as_the_policys_own_are(tmp_path: Path) -> None:
    """No stricter than those whose label counts."""

    async def go() -> None:
        rollout = replace(policy(Subject(labels=(("agent", "coder"),))), rollout_percent=0)
        stage = Stage(tmp_path, rollout)
        await stage.becomes(container(agent="coder"))
        assert stage.under() == ((NOBODYS, Mode.MONITOR),)

    asyncio.run(go())


@pytest.mark.parametrize(
    ("policy_ends_in_s", "ends_in_s"), [(100, 100), (3600, 1800), (None, 1800)], ids=["earlier", "later", "never"]
)
def test_what_a_session_opens_ends_with_it_or_earlier(
    tmp_path: Path, policy_ends_in_s: int | None, ends_in_s: int
) -> None:
    """A session prolongs no policy; and one that is for another reason keeps its own end."""

    now = int(time.time())
    expires = datetime.fromtimestamp(now + policy_ends_in_s, UTC) if policy_ends_in_s else None

    async def go() -> None:
        alices = policy(Subject(session=(("user", "alice"),)), name="alices", expires=expires)
        stage = Stage(tmp_path, alices, policy(Subject(cgroups=("/a",))), path="/a")
        assert stage.under() == (("one", Mode.ENFORCE),)
        stage.begin_session(now + 1800)
        assigned = stage.assigning.assigned(7)
        assert assigned
        assert {one.name: one.expires for one in assigned.policies} == {
            "alices": datetime.fromtimestamp(now + ends_in_s, UTC), "one": None,
        }  # fmt: skip

    asyncio.run(go())


def test_a_session_may_be_for_a_container_or_a_pod_by_its_id(tmp_path: Path) -> None:
    """Once its runtime has told; else only by its place, or the name that somebody gave it."""

    async def go() -> None:
        stage = Stage(tmp_path, path=OF_POD)
        assert stage.assigning.names_of(7, "") == (OF_POD,)
        await stage.becomes(container(), Pod("ml", "p", UID))
        assert stage.assigning.names_of(7, "") == (OF_POD, ID, UID)
        assert stage.assigning.names_of(7, "mine") == ("mine", OF_POD, ID, UID)
        assert stage.assigning.names_of(8, "") == ()

    asyncio.run(go())
