"""What was asked for a workload at run time: its registration, allowances for a time, a mode. Kept under /run.

One file for each workload. It outlives the agent, not the host: cgroup ids mean nothing after a restart of the kernel.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from exeat.agent.shelf import write_whole
from exeat.errors import ExeatError
from exeat.model.policy import Mode


@dataclass(frozen=True, slots=True)
class Registration:
    """Somebody named a cgroup a workload."""

    name: str
    source: str = "registration"
    labels: dict[str, str] = field(default_factory=dict)
    policies: tuple[str, ...] = ()  # names, beside those whose subject matches
    policy_text: str = ""  # a policy of its own
    until_ns: int = 0  # wall clock; 0: as long as the cgroup
    by: str = ""


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

    cgroup: str
    registration: Registration | None = None
    allowances: tuple[Allowance, ...] = ()
    override: Override | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to keep."""
        return not (self.registration or self.allowances or self.override)


class Wishes:
    """Those of all workloads, by the cgroup's id, on disk before they are in force."""

    def __init__(self, directory: Path) -> None:
        self.complaints: list[str] = []
        self._directory = directory
        self._wishes: dict[int, Wish] = {}

    def load(self) -> None:
        """Reads what an agent before this one kept. What cannot be read is set aside and said."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(self._directory.glob("*.json")):
            try:
                self._wishes[int(path.stem)] = read_wish(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, ExeatError) as error:
                aside = path.with_suffix(".unreadable")
                path.replace(aside)
                self.complaints.append(
                    f"{path} cannot be read ({error}): set aside as {aside.name}; its workload stays as it is"
                )

    def of(self, workload: int, cgroup: str) -> Wish:
        """What was asked for a workload, if anything."""
        return self._wishes.get(workload) or Wish(cgroup)

    def ids(self) -> tuple[int, ...]:
        """Workloads for which something was asked."""
        return tuple(self._wishes)

    def put(self, workload: int, wish: Wish) -> None:
        """Keeps a wish in place of what was asked before."""
        path = self._directory / f"{workload}.json"
        if wish.is_empty:
            self.drop(workload)
            return
        write_whole(path, write_wish(wish).encode())
        self._wishes[workload] = wish

    def drop(self, workload: int) -> None:
        """The workload has gone."""
        if self._wishes.pop(workload, None):
            (self._directory / f"{workload}.json").unlink(missing_ok=True)


def write_wish(wish: Wish) -> str:
    """As JSON."""
    return json.dumps(asdict(wish), indent=1)


def read_wish(text: str) -> Wish:
    """Reads what write_wish wrote. Raises ExeatError for anything else."""
    try:
        fields = json.loads(text)
        registration, override = fields["registration"], fields["override"]
        wish = Wish(
            cgroup=fields["cgroup"],
            registration=_registration(registration) if registration else None,
            allowances=tuple(Allowance(**allowance) for allowance in fields["allowances"]),
            override=replace(Override(**override), mode=Mode(override["mode"])) if override else None,
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ExeatError(f"it is no state of a workload: {error}") from error
    _check(wish)
    return wish


def _registration(fields: Mapping[str, Any]) -> Registration:
    read = Registration(**fields)
    return replace(read, policies=tuple(read.policies), labels=dict(read.labels))


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
