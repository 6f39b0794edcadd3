"""This node in its fleet: the agent's end of the Sync stream. Who connects, and when, is control/plane_client's matter.

What it works on is small on purpose (fleet_parts.py), so that all of it but the kernel runs in tests and in a simulated
fleet:

    fleet = Fleet(node, ground, keeping, commands, standing)
    await until_one_ends(PlaneClient(access, fleet, None, away).run(), fleet.keep_on())

        node: NodeFacts         who this is
        ground: Ground          the kernel's side: has bundles enforced, tells workloads and health
        keeping: Keeping        the disk's side: BundleFiles, or nothing
        commands: Obeying       Commands, or nothing
        standing: Standing      what is shown of it all; `standing.bundle` is in force

A push is answered once it is enforced: read in a thread, put into the kernel here, kept on disk, then acknowledged.
What cannot be believed or enforced leaves all as it was.
"""

import asyncio
import logging
import time

from google.protobuf.timestamp_pb2 import Timestamp

from exeat.agent.bundles import Fault, PushRefused, judge
from exeat.agent.fleet_parts import Ground, Keeping, NodeFacts, Obeying
from exeat.agent.patience import Patience
from exeat.agent.standing import Standing
from exeat.agent.workload_news import WorkloadTeller
from exeat.control.plane_channel import PlaneAway, PlaneChannel, Stream
from exeat.control.together import until_one_ends
from exeat.errors import ExeatError
from exeat.v1 import plane_pb2 as pb

PROTOCOL = 1
_WELCOME_S = 20.0
_NEWS_S = 2.0
_BEAT_MAX_S = 3600
_READS_S = 60.0  # a plane that reads nothing for so long is none
_KEEP_AGAIN_S = 5.0
_SILENT_BEATS = 3
_BREATH_S = 0.002  # between two messages: whoever sends thousands a second takes no core away from the gates
_COMMANDS_FREE, _REFUSED_S = 20, 0.25  # so many refused in a row; then each is waited for: it fills a log
_FAULTS_MAX, _TEXT_MAX = 100, 1000  # of an answer
_BUG = "the agent failed at this; its log says how: journalctl -u exeat"
_log = logging.getLogger("exeat")

_Sync = Stream[pb.SyncRequest, pb.SyncResponse]


class Fleet:
    """A `Talker` of control/plane_client."""

    def __init__(
        self, node: NodeFacts, ground: Ground, keeping: Keeping, commands: Obeying, standing: Standing
    ) -> None:
        self._node = node
        self._ground = ground
        self._keeping = keeping
        self._commands = commands
        self._standing = standing
        self._patience = Patience()
        self._commands_refused = 0  # in a row
        self._teller = WorkloadTeller()
        self._telling = asyncio.Lock()
        self._kept = standing.bundle  # on disk
        self._keeps: set[asyncio.Task[None]] = set()
        self._at_disk = asyncio.Lock()
        self._push: tuple[pb.PolicyPush, int] | None = None  # under way, and when it came
        self._pushed = asyncio.Event()

    async def talk(self, channel: PlaneChannel) -> None:
        """From hello to the end of the stream. Raises PlaneAway."""
        stream = channel.sync()
        where = f"plane {channel.endpoint}"
        try:
            await self._say(stream, pb.SyncRequest(hello=self._hello()))
            welcome = _welcome_in(await stream.hear(_WELCOME_S), where)
            self._push = None
            self._pushed.clear()
            self._teller = WorkloadTeller()
            self._standing.came(str(channel.endpoint), welcome.plane, welcome.version)
            self._heed_clock(welcome.now)
            _log.info("connected to %s (%s, exeat %s)", where, welcome.plane, welcome.version)
            channel.welcomed.set()
            beat_s = float(welcome.beat_s)
            await until_one_ends(
                self._listen(stream, beat_s, where),
                self._beat(stream, beat_s),
                self._tell(stream),
                self._answer(stream),
            )
        finally:
            stream.end()

    def _hello(self) -> pb.Hello:
        node, bundle = self._node, self._standing.bundle
        keys = node.trust.key_ids
        self._standing.key = keys[0] if keys else ""
        hello = pb.Hello(
            node=node.name,
            labels=node.labels,
            version=node.version,
            protocol=PROTOCOL,
            kernel=node.kernel,
            features=node.features,
            start=node.start,
            keys=keys,
        )
        hello.started.FromNanoseconds(node.started_ns)
        hello.now.FromNanoseconds(time.time_ns())
        if bundle:
            hello.serial = bundle.serial
            hello.holdings.extend(pb.Holding(name=name, revision=one) for name, one in bundle.holdings.items())
        return hello

    async def _listen(self, stream: _Sync, beat_s: float, where: str) -> None:
        while True:
            heard = await stream.hear(_SILENT_BEATS * beat_s)
            said = heard.WhichOneof("said")
            if said == "push":
                if self._push:
                    raise PlaneAway(f"{where}: it has sent a second push before the answer to the first")
                self._push = (heard.push, time.monotonic_ns())
                self._pushed.set()
            elif said == "command":
                await self._obey(stream, heard.command)
            elif said == "beat":
                self._heed_clock(heard.beat.now)
            elif said == "welcome":
                raise PlaneAway(f"{where}: it has sent a second welcome")
            await asyncio.sleep(_BREATH_S)

    async def _obey(self, stream: _Sync, command: pb.Signed) -> None:
        result = await self._commands.obey(command)
        is_done = result is not None and not result.refusal
        self._commands_refused = 0 if is_done else self._commands_refused + 1
        if is_done:
            await self._tell_news(stream)  # first: whoever has the result may look at the workloads next
        if result:
            await self._say(stream, pb.SyncRequest(result=result))
        if self._commands_refused > _COMMANDS_FREE:
            await asyncio.sleep(_REFUSED_S)

    async def _answer(self, stream: _Sync) -> None:
        while True:
            await self._pushed.wait()
            self._pushed.clear()
            if self._push:
                push, came_ns = self._push
                await asyncio.sleep(self._patience.wait_s(push))
                answer = await self._answer_to(push, came_ns)
                self._patience.note(push, answer.is_accepted)
                self._push = None
                await self._say(stream, pb.SyncRequest(answer=answer))

    async def _answer_to(self, push: pb.PolicyPush, came_ns: int) -> pb.PolicyAnswer:
        """Never raises: a plane learns what became of its push."""
        standing = self._standing
        answer = pb.PolicyAnswer(nonce=push.nonce)
        try:
            bundle = await asyncio.to_thread(
                judge, push, self._node.name, self._node.trust, standing.bundle, time.time_ns()
            )
            enforced = self._ground.enforce(bundle)
        except PushRefused as error:
            answer.wants_all = error.wants_all
            self._refuse(answer, error.faults)
        except ExeatError as error:
            self._refuse(answer, (Fault("", str(error)),))
        except Exception:  # noqa: BLE001  # whatever it is, the plane must know that this is not in force
            _log.exception("what the plane sent could not be taken")
            self._refuse(answer, (Fault("", _BUG),))
        else:
            answer.took_ns = time.monotonic_ns() - came_ns
            standing.bundle, standing.refused, standing.damage = bundle, "", ""
            standing.last_answer = "accepted"
            answer.is_accepted = True
            answer.switched = enforced.switched
            answer.failures.extend(text[:_TEXT_MAX] for text in enforced.failures[:_FAULTS_MAX])
            warnings = [warning for document in bundle.documents for warning in document.warnings]
            await self.keep()
            if standing.unkept:
                warnings.insert(0, standing.unkept)
            answer.warnings.extend(text[:_TEXT_MAX] for text in warnings[:_FAULTS_MAX])
        answer.serial = standing.bundle.serial if standing.bundle else 0
        return answer

    async def keep(self) -> None:
        """Has the bundle in force outlive the agent. It is enforced first: a full disk must not come in between.

        Goes on where the caller does not: else a plane that hangs up at once would leave it undone.
        """
        task = asyncio.create_task(self._keep())
        self._keeps.add(task)
        task.add_done_callback(self._keeps.discard)
        await asyncio.shield(task)

    async def _keep(self) -> None:
        standing = self._standing
        async with self._at_disk:  # else an older one could come to lie above a newer one
            bundle = standing.bundle
            if bundle is None or bundle is self._kept:
                return
            try:
                await asyncio.to_thread(self._keeping.save, bundle)
            except OSError as error:
                standing.unkept = f"what the plane sent is in force, but not on disk: {error}; a restart would lose it"
                return
            standing.unkept = ""
            self._kept = bundle.without_texts()
            if standing.bundle is bundle:
                standing.bundle = self._kept

    async def keep_on(self) -> None:
        """Tries again what the disk did not take, whether the plane is there or not."""
        while True:
            await self.keep()
            await asyncio.sleep(_KEEP_AGAIN_S)

    def _refuse(self, answer: pb.PolicyAnswer, faults: tuple[Fault, ...]) -> None:
        first = faults[0].text
        self._standing.last_answer = self._standing.refused = f"what the plane sent is refused: {first[:_TEXT_MAX]}"
        _log.warning("%s", self._standing.refused.encode("ascii", "backslashreplace").decode())
        answer.faults.extend(
            pb.PolicyFault(policy=one.policy, text=one.text[:_TEXT_MAX]) for one in faults[:_FAULTS_MAX]
        )
        if len(faults) > _FAULTS_MAX:
            answer.faults.add(text=f"... and {len(faults) - _FAULTS_MAX} more")

    async def _beat(self, stream: _Sync, beat_s: float) -> None:
        while True:
            health, bundle = self._ground.health(), self._standing.bundle
            beat = pb.AgentBeat(
                serial=bundle.serial if bundle else 0,
                workloads=health.workloads,
                lost_events=health.lost_events,
                unreported=self._standing.unreported(),
                complaints=[text[:_TEXT_MAX] for text in health.complaints[:_FAULTS_MAX]],
            )
            beat.now.FromNanoseconds(time.time_ns())
            await self._say(stream, pb.SyncRequest(beat=beat))
            await asyncio.sleep(beat_s)

    async def _tell(self, stream: _Sync) -> None:
        while True:
            await self._tell_news(stream)
            await asyncio.sleep(_NEWS_S)

    async def _tell_news(self, stream: _Sync) -> None:
        async with self._telling:  # else older news could come after newer ones
            if news := self._teller.news(self._ground.states()):
                await self._say(stream, pb.SyncRequest(workloads=news))

    def _heed_clock(self, stamp: Timestamp) -> None:
        if stamp.seconds:  # else it did not say
            self._standing.heard_clock(stamp.seconds * 10**9 + stamp.nanos, time.time_ns())

    async def _say(self, stream: _Sync, request: pb.SyncRequest) -> None:
        await stream.say(request, _READS_S)


def _welcome_in(response: pb.SyncResponse, where: str) -> pb.Welcome:
    if response.WhichOneof("said") != "welcome":
        raise PlaneAway(f"{where}: it does not begin with a welcome")
    welcome = response.welcome
    if welcome.protocol != PROTOCOL:
        raise PlaneAway(f"{where}: it wants to speak protocol {welcome.protocol}, and this agent knows {PROTOCOL}")
    if not 1 <= welcome.beat_s <= _BEAT_MAX_S:
        raise PlaneAway(f"{where}: it wants a beat each {welcome.beat_s} s, and may from 1 to {_BEAT_MAX_S}")
    return welcome
