"""What was asked for a workload at run time: registration, session, allowances for a time, mode. Kept under /run.

One file for each workload. It outlives the agent, not the host: ids mean nothing after a restart of the kernel.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from exeat.agent.guest_said import GuestSaid, read_said
from exeat.agent.session_context import SessionContext, read_context
from exeat.errors import ExeatError
from exeat.model.policy import Mode
from exeat.whole_files import write_whole

_NEVER = 1 << 64


@dataclass(frozen=True, slots=True)
class Registration:
    """Somebody named a cgroup, or an interface, a workload."""

    name: str
    source: str = "registration"
    labels: dict[str, str] = field(default_factory=dict)
    policies: tuple[str, ...] = ()  # names, beside those whose subject matches
    policy_text: str = ""  # a policy of its own
    until_ns: int = 0  # wall clock; 0: as long as the cgroup
    by: str = ""
    guest: GuestSaid | None = None  # of an interface


@dataclass(frozen=True, slots=True)
class Allowance:
    """A rule for a time."""

    id: str
    destination: str  # as `--allow` or `--allow-cidr` take it
    until_ns: int  # wall clock
    reason: str
    by: str


@dataclass(frozen=True, slots=True)
class Override:
    """A mode in place of the policies'."""

    mode: Mode
    until_ns: int = 0  # boot clock, as the kernel has it; 0: until changed
    reason: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class Wish:
    """All of it. An empty one is not kept."""

    cgroup: str  # its path; or the name of the interface
    registration: Registration | None = None
    allowances: tuple[Allowance, ...] = ()
    override: Override | None = None
    session: SessionContext | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to keep."""
        return not (self.registration or self.allowances or self.override or self.session)


class Wishes:
    """Those of all workloads, by their ids, on disk before they are in force."""

    def __init__(self, directory: Path) -> None:
        self.complaints: list[str] = []
        self._directory = directory
        self._wishes: dict[int, Wish] = {}
        self._ends: dict[int, tuple[int, int]] = {}  # of those that end: by the wall clock, and by the boot clock
        self._unkept: dict[int, str] = {}  # in force but not on disk, and why

    @property
    def unkept(self) -> tuple[str, ...]:
        """Complaints about what is in force and not on disk."""
        return tuple(self._unkept.values())

    def load(self) -> None:
        """Reads what an agent before this one kept. What cannot be read is set aside and said."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            paths = sorted(self._directory.glob("*.json"))
        except OSError as error:
            self.complaints.append(f"{self._directory}: {error.strerror}; registered workloads stay as they are")
            return
        for path in paths:
            try:
                self._set(int(path.stem), read_wish(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, ExeatError) as error:
                self.complaints.append(
                    f"{path} cannot be read ({error}){_set_aside(path)}; its workload stays as it is"
                )

    def of(self, workload: int, cgroup: str) -> Wish:
        """What was asked for a workload, if anything."""
        return self._wishes.get(workload) or Wish(cgroup)

    def ids(self) -> tuple[int, ...]:
        """Workloads for which something was asked."""
        return tuple(self._wishes)

    def ending(self, wall_ns: int, now_ns: int) -> list[int]:
        """Workloads of whose wishes something has ended."""
        return [one for one, (wall, boot) in self._ends.items() if wall <= wall_ns or boot <= now_ns]

    def put(self, workload: int, wish: Wish) -> None:
        """Keeps a wish in place of what was asked before."""
        path = self._directory / f"{workload}.json"
        if wish.is_empty:
            self.drop(workload)
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # somebody may have removed it
        write_whole(path, write_wish(wish).encode())
        self._set(workload, wish)
        self._unkept.pop(workload, None)

    def hold(self, workload: int, wish: Wish) -> None:
        """The same of what is so already, whether the disk takes it or not."""
        try:
            self.put(workload, wish)
        except OSError as error:
            self._set(workload, wish)
            self._unkept[workload] = f"{wish.cgroup}: {error}; the next agent would not know what was changed"

    def keep(self) -> None:
        """Tries again to write what the disk did not take."""
        for workload in list(self._unkept):
            self.hold(workload, self._wishes[workload])

    def _set(self, workload: int, wish: Wish) -> None:
        self._wishes[workload] = wish
        self._ends.pop(workload, None)
        ends = _first_ends(wish)
        if ends != (_NEVER, _NEVER):
            self._ends[workload] = ends

    def drop(self, workload: int) -> None:
        """The workload has gone."""
        self._ends.pop(workload, None)
        self._unkept.pop(workload, None)
        if self._wishes.pop(workload, None):
            try:
                (self._directory / f"{workload}.json").unlink(missing_ok=True)
            except OSError as error:
                self.complaints.append(
                    f"{self._directory}: {error.strerror}; what was asked for {workload} stays there"
                )


def _set_aside(path: Path) -> str:
    aside = path.with_suffix(".unreadable")
    try:
        path.replace(aside)
    except OSError:  # it stays where it is, and is found again
        return ""
    return f": set aside as {aside.name}"


def _first_ends(wish: Wish) -> tuple[int, int]:
    """When the first thing of it ends, by the wall clock and by the boot clock."""
    walls = [one.until_ns for one in wish.allowances]
    if wish.registration and wish.registration.until_ns:
        walls.append(wish.registration.until_ns)
    boots = [wish.override.until_ns] if wish.override and wish.override.until_ns else []
    if wish.session and wish.session.token:
        walls.append(wish.session.until_ns)
        boots.append(wish.session.until_boot_ns)
    return min(walls, default=_NEVER), min(boots, default=_NEVER)


def write_wish(wish: Wish) -> str:
    """As JSON."""
    return json.dumps(asdict(wish), indent=1)


def read_wish(text: str) -> Wish:
    """Reads what write_wish wrote. Raises ExeatError for anything else."""
    try:
        fields = json.loads(text)
        registration, override, session = fields["registration"], fields["override"], fields.get("session")
        wish = Wish(
            cgroup=fields["cgroup"],
            registration=_registration(registration) if registration else None,
            allowances=tuple(Allowance(**allowance) for allowance in fields["allowances"]),
            override=replace(Override(**override), mode=Mode(override["mode"])) if override else None,
            session=read_context(session) if session else None,
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ExeatError(f"it is no state of a workload: {error}") from error
    _check(wish)
    return wish


def _registration(fields: Mapping[str, Any]) -> Registration:
    read = Registration(**fields)
    guest = read_said(fields["guest"]) if fields.get("guest") else None
    return replace(read, policies=tuple(read.policies), labels=dict(read.labels), guest=guest)


def _check(wish: Wish) -> None:
    texts: list[object] = [wish.cgroup]
    numbers: list[object] = []
    if one := wish.registration:
        texts += [one.name, one.source, one.policy_text, one.by, *one.policies, *one.labels, *one.labels.values()]
        numbers.append(one.until_ns)
    for allowance in wish.allowances:
        texts += [allowance.id, allowance.destination, allowance.reason, allowance.by]
        numbers.append(allowance.until_ns)
    if wish.override:
        texts += [wish.override.reason, wish.override.by]
        numbers.append(wish.override.until_ns)
    is_whole = all(isinstance(text, str) for text in texts)
    is_number = all(type(number) is int and 0 <= number < 1 << 64 for number in numbers)
    if not is_whole or not is_number:
        raise ExeatError("it is no state of a workload: a value is of the wrong kind")
