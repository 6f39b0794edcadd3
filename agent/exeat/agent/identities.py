"""Who is in which container's cgroup, asked of the runtimes as cgroups come, and kept for the next agent.

Until a runtime has answered, a container is awaited: what a policy may say of it cannot be known. A runtime that does
not answer is asked again and again. What every runtime calls nobody's of its own is no container, but is asked for
some more times: a pod's sandbox runs before its runtime lists it. A runtime that has listened once and does not now is
one that does not answer: it may be the one that knows. Of a pod that is so of CRI's whether they ever listened or not.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from exeat.control.cri import CriRuntime
from exeat.core.cgroup_names import CgroupName, name_of
from exeat.core.identity_text import read_identity
from exeat.errors import ExeatError
from exeat.model.identity import Identity
from exeat.runtime_settings import RuntimeSettings
from exeat.runtimes.docker import DockerRuntime
from exeat.runtimes.owner import is_made_by_root, why_not_roots
from exeat.runtimes.runtime import Runtime
from exeat.whole_files import write_whole

_AGAIN_S = (0.05, 0.1, 0.3, 1.0, 2.0, 5.0)  # then the last one again and again
_CRI = CriRuntime.name
_DENIED_TIMES = 4  # so often in a row every runtime must say that it is not its own, before it is let go
_DENIED_MAX = 8  # so often it is asked then, in all
_AT_ONCE = 8  # questions to one runtime: that it is slow keeps nobody waiting who is another's


@dataclass(slots=True)
class _Known:
    path: str
    name: CgroupName
    identity: Identity | None = None
    is_awaited: bool = True
    was_asked: bool = False  # whatever came of it
    denied: int = 0  # how often every runtime said that it is not its own
    why: str = "its runtime was not asked yet"
    task: asyncio.Task[None] | None = None


def runtimes_of(settings: RuntimeSettings) -> tuple[Runtime, ...]:
    """Those that the settings name, whether they listen already or not."""
    found: list[Runtime] = []
    if settings.docker:
        found.append(DockerRuntime("docker", settings.docker))
    if settings.podman:
        found.append(DockerRuntime("podman", settings.podman))
    return (*found, *(CriRuntime(socket) for socket in settings.cri))


class Identities:
    """Belongs to the control loop. `news` hears of a workload of which something else is known than before."""

    def __init__(self, runtimes: tuple[Runtime, ...], memory: Path, directory: Callable[[str], Path]) -> None:
        self.news: Callable[[int], None] = lambda workload: None
        self._runtimes = runtimes
        self._memory = memory
        self._directory = directory  # of a cgroup
        self._known: dict[int, _Known] = {}
        self._at: dict[str, int] = {}
        self._turns = {runtime: asyncio.Semaphore(_AT_ONCE) for runtime in runtimes}
        self._listeners: set[Runtime] = set()  # that have listened here, now or before
        self._unkept = ""

    @property
    def complaints(self) -> list[str]:
        """What is not as it should be."""
        return [self._unkept] if self._unkept else []

    def unknown(self) -> list[str]:
        """Why containers are awaited, in sentences; for who denies them something for that reason."""
        whys = Counter(known.why for known in self._known.values() if known.is_awaited and known.denied == 0)
        return [
            f"it is not known who {count} container{'s are' if count > 1 else ' is'}, and all is denied that only a "
            f"policy by name would allow: {why}"
            for why, count in whys.most_common(3)
        ]

    @property
    def has_listeners(self) -> bool:
        """Whether a runtime has listened here. None ever has: labels are meant for what is registered."""
        return bool(self._listeners) or any(map(self._is_listening, self._runtimes))

    def load(self) -> None:
        """What an agent before this one was told. What cannot be read is asked again."""
        for file in sorted(self._memory.glob("*.json")) if self._memory.is_dir() else ():
            try:
                path, kept = json.loads(file.read_text(encoding="utf-8"))
                workload, identity = int(file.stem), None if kept is None else read_identity(kept)
            except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
                file.unlink(missing_ok=True)
                continue
            known = _Known(str(path), name_of(str(path)), identity, is_awaited=False)
            self._enter(workload, known)
            if identity is None:  # nobody's, so far
                known.denied = _DENIED_TIMES
                self._begin(workload, known)

    async def ask_first(self, places: Iterable[tuple[int, str]], within_s: float) -> None:
        """Has them asked about, and waits for the first answers: a wall would cut what runs already."""
        asking = [known for workload, path in places if (known := self._meet(workload, path)) and known.is_awaited]
        deadline = asyncio.get_running_loop().time() + within_s
        while any(known.is_awaited and not known.was_asked for known in asking):
            if asyncio.get_running_loop().time() >= deadline:
                return
            await asyncio.sleep(0.005)

    def of(self, workload: int, path: str) -> Identity | None:
        """Who it is; None: no container, or one of which nobody has said yet who it is."""
        known = self._meet(workload, path)
        return known.identity if known else None

    def is_awaited(self, workload: int, path: str) -> bool:
        """Whether it looks like a container, and nobody has said yet who it is."""
        known = self._meet(workload, path)
        return known is not None and known.is_awaited

    def why_unknown(self, workload: int) -> str:
        """Why it is awaited; empty: it is not."""
        known = self._known.get(workload)
        return known.why if known and known.is_awaited else ""

    def forget_at(self, paths: Iterable[str]) -> None:
        """These cgroups have gone, whether they were workloads or not."""
        for path in paths:
            if (workload := self._at.get(path)) is not None:
                self.forget(workload)

    def forget_but(self, is_there: Callable[[int], bool]) -> None:
        """Those that went while nobody looked."""
        for workload in [one for one in self._known if not is_there(one)]:
            self.forget(workload)

    def forget(self, workload: int) -> None:
        """Its cgroup has gone."""
        known = self._known.pop(workload, None)
        if known is None:
            return
        if self._at.get(known.path) == workload:
            del self._at[known.path]
        if known.task:
            known.task.cancel()
        try:
            self._file(workload).unlink(missing_ok=True)
        except OSError as error:  # the id is never given again: the next agent forgets it
            self._unkept = f"{self._memory}: {error.strerror}; who has gone is still there"

    async def close(self) -> None:
        """Asks no more."""
        for known in self._known.values():
            if known.task:
                known.task.cancel()
        for runtime in self._runtimes:
            await runtime.close()

    def _meet(self, workload: int, path: str) -> _Known | None:
        known = self._known.get(workload)
        if known is not None and known.path == path:
            return known
        name = name_of(path) if path.startswith("/") else None
        if name is None or not name.container_id or not self._candidates(name):
            return None
        if not is_made_by_root(self._directory(path)):
            return None
        self.forget(workload)
        known = _Known(path, name)
        self._enter(workload, known)
        self._begin(workload, known)
        return known

    def _enter(self, workload: int, known: _Known) -> None:
        self._known[workload], self._at[known.path] = known, workload

    def _begin(self, workload: int, known: _Known) -> None:
        known.task = asyncio.get_running_loop().create_task(self._learn(workload, known))

    def _candidates(self, name: CgroupName) -> list[Runtime]:
        """Who may know it, of those that are not off. Of a pod, CRI first: it is its own."""
        found = [one for one in self._runtimes if name.runtime in ("", one.name)]
        return sorted(found, key=lambda one: one.name != _CRI) if name.pod_uid else found

    def _is_listening(self, runtime: Runtime) -> bool:
        is_there = runtime.socket.exists()
        if is_there:
            self._listeners.add(runtime)
        return is_there

    async def _learn(self, workload: int, known: _Known) -> None:
        asked = 0
        while known.identity is None and known.denied < _DENIED_MAX:
            await self._ask(known)
            known.was_asked = True
            if known.identity is not None or (known.denied == _DENIED_TIMES and known.is_awaited):
                known.is_awaited = False
                self._keep(workload, known)
                self.news(workload)
            if known.identity is None:
                await asyncio.sleep(_AGAIN_S[min(asked, len(_AGAIN_S) - 1)])
                asked += 1
        known.task = None

    async def _ask(self, known: _Known) -> None:
        name = known.name
        candidates = self._candidates(name)
        listening = [one for one in candidates if self._is_listening(one)]
        why = _why_undecided(name, candidates, listening, self._listeners)
        for runtime in listening:
            try:
                if why_not := why_not_roots(runtime.socket):
                    raise ExeatError(why_not)
                async with self._turns[runtime]:
                    identity = await runtime.find(name.container_id)
            except ExeatError as error:
                why = str(error)
                continue
            if identity is not None:
                known.identity, known.why = identity, ""
                return
        if why:
            known.why, known.denied = why, 0  # who fails now may be the one that knows; and this is told
        else:
            known.denied += 1
            known.why = "no runtime of this host knows it"

    def _keep(self, workload: int, known: _Known) -> None:
        """An agent that is started anew must not deny what is known. Without disk, it asks again."""
        kept = None if known.identity is None else asdict(known.identity)
        try:
            self._memory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self._file(workload), json.dumps([known.path, kept]).encode())
            self._unkept = ""
        except OSError as error:
            self._unkept = f"{self._memory}: {error.strerror}; the next agent will ask again who the containers are"

    def _file(self, workload: int) -> Path:
        return self._memory / f"{workload}.json"


def _why_undecided(
    name: CgroupName, candidates: list[Runtime], listening: list[Runtime], listeners: set[Runtime]
) -> str:
    """Why it is not enough that all who listen now say that it is not theirs; empty: it is."""
    away = [one for one in candidates if one in listeners and one not in listening]
    if away:
        return f"{away[0].name} has listened at {away[0].socket}, and does not now"
    may_be_cri = any(one.name == _CRI for one in candidates)
    has_cri = any(one.name == _CRI for one in listening)
    if not listening or (name.pod_uid and may_be_cri and not has_cri):
        return "no runtime that would know listens on this host"
    return ""
