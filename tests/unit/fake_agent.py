"""An agent without a kernel: its answers are made up, its server, door and socket are the real ones.

with fake_agent(path) as agent: ...        in a thread
python tests/unit/fake_agent.py PATH       until it is killed
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

from exeat.control.convert import to_wire  # noqa: E402
from exeat.control.peer import Peer  # noqa: E402
from exeat.control.server import Server, serve  # noqa: E402
from exeat.core.filters import Filter, parse_to  # noqa: E402
from exeat.errors import Refused, StatusWord  # noqa: E402
from exeat.model.record import Record  # noqa: E402
from exeat.model.verdicts import Reason, Verdict  # noqa: E402
from exeat.v1 import agent_pb2 as pb  # noqa: E402
from unit.record_words import any_record  # noqa: E402

START_S = 1_900_000_000
CODER = "/agents.slice/coder-7.scope"
LOG = (
    any_record(time_ns=START_S * 10**9, verdict=Verdict.FORWARDED, reason=Reason.NAME_ALLOWED, name="api.example.com",
               workload=CODER, policy="coding-agent", rule="model-api", address=ip_address("203.0.113.10")),
    any_record(time_ns=(START_S + 1) * 10**9, workload=CODER, policy="coding-agent", name="evil.test"),
    any_record(time_ns=(START_S + 2) * 10**9, workload=CODER, policy="coding-agent", name="\x1b[31mred.test",
               verdict=Verdict.AUDIT, address=ip_address("2001:db8::7")),
)  # fmt: skip


class FakeAgent:
    """Two workloads, three verdicts, and what a test tells it to do wrong."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.workloads = {name: _workload(name, number) for number, name in enumerate(("coder-7", "builder"), 1)}
        self.ended: list[str] = []
        self.flood: Record | None = None  # said again and again, as fast as it is read
        self.flooded = 0
        self.failure: Exception | None = None
        self.slowly_s = 0.0
        self.finished = 0
        self.complaints: list[str] = []

    async def get_status(self, _request: pb.GetStatusRequest, peer: Peer) -> pb.GetStatusResponse:
        self.peers.append(peer)
        await self._trouble()
        status = pb.GetStatusResponse(
            version="0.2.0", in_control_ms=412, programs="9f1c" * 16, own_programs="9f1c" * 16,
            policies=self._policies(), workloads=len(self.workloads), table_sets=1, complaints=self.complaints,
            tables=[pb.TableUse(name="networks", used=120, max=65536), pb.TableUse(name="hosts", used=60000, max=65536)],  # noqa: E501
            endings=[pb.Ending(policy="coding-agent", rule="model-api")], resident_bytes=48 << 20,
        )  # fmt: skip
        status.started.GetCurrentTime()
        status.last_seen.seconds = status.started.seconds - 90
        status.endings[0].expires.seconds = status.started.seconds + 3 * 86_400
        return status

    def _policies(self) -> list[pb.PolicyStatus]:
        found = [
            pb.PolicyStatus(
                name="coding-agent", file="coder.yaml", revision="ab" * 32, workloads=2, mode=pb.MODE_ENFORCE
            )
        ]
        if self.complaints:
            error = "broken.yaml:4: unknown field `egres`: write `egress`"
            found.append(pb.PolicyStatus(name="broken.yaml", file="broken.yaml", errors=[error]))
        return found

    def _one(self, text: str) -> pb.Workload:
        fits = [one for one in self.workloads.values() if text in (one.name, one.cgroup)]
        fits = fits or [one for one in self.workloads.values() if text in one.name or text in one.cgroup]
        if not fits:
            raise Refused(StatusWord.NOT_FOUND, f"no workload is called {text!r}: exeat workloads lists them")
        if len(fits) > 1:
            raise Refused(StatusWord.PRECONDITION, f"{text!r} fits several workloads: write more of the name")
        return fits[0]

    async def _trouble(self) -> None:
        if self.slowly_s:
            await asyncio.sleep(self.slowly_s)
            self.finished += 1
        if self.failure:
            raise self.failure

    async def list_workloads(self, request: pb.ListWorkloadsRequest, _peer: Peer) -> pb.ListWorkloadsResponse:
        found = [self._one(request.workload)] if request.workload else list(self.workloads.values())
        return pb.ListWorkloadsResponse(workloads=sorted(found, key=lambda one: one.name))

    async def register(self, request: pb.RegisterRequest, _peer: Peer) -> pb.RegisterResponse:
        if request.name in self.workloads:
            raise Refused(StatusWord.PRECONDITION, f"{request.name!r} is a workload already: exeat unregister it first")
        if request.WhichOneof("target") is None:
            raise Refused(StatusWord.INVALID, "a registration needs a cgroup or a pid")
        one = _workload(request.name, len(self.workloads) + 1)
        one.cgroup = "" if request.interface else request.cgroup or f"/of-process-{request.pid}"
        if request.interface:
            one.id = (1 << 62) + 7
            addresses = [ip_address(text).packed for text in request.guest.addresses]
            guest = pb.GuestState(interface=request.interface, mac=request.guest.mac, addresses=addresses, hook="tcx")
            one.guest.CopyFrom(guest)
        one.source = "registration"
        one.labels.clear()
        one.labels.update(request.labels)
        one.policies[:] = request.policies
        if request.session:
            one.who.session = request.session
            one.session_until.GetCurrentTime()
        if request.ttl_s:
            one.until.GetCurrentTime()
            one.until.seconds += request.ttl_s
        self.workloads[request.name] = one
        return pb.RegisterResponse(
            workload=one, warnings=["policy-file:3: `example.com` stands alone"] * bool(request.policy_text)
        )

    async def unregister(self, request: pb.UnregisterRequest, _peer: Peer) -> pb.UnregisterResponse:
        return pb.UnregisterResponse(workload=self.workloads.pop(self._one(request.workload).name), cut=2)

    async def set_mode(self, request: pb.SetModeRequest, _peer: Peer) -> pb.SetModeResponse:
        one = self._one(request.workload)
        one.mode = request.mode or pb.MODE_ENFORCE
        one.mode_reason = request.reason
        one.ClearField("mode_until")
        if request.for_s:
            one.mode_until.GetCurrentTime()
            one.mode_until.seconds += request.for_s
        return pb.SetModeResponse(workload=one, cut=1)

    async def allow(self, request: pb.AllowRequest, peer: Peer) -> pb.AllowResponse:
        one = self._one(request.workload)
        if " " in request.destination:
            raise Refused(
                StatusWord.INVALID, f"{request.destination!r} is no destination: write one like api.example.com"
            )
        rule = pb.RuleOrigin(
            rule="allow-1",
            text=f"tls {request.destination}:443",
            reason=f"{request.reason} (uid {peer.uid})",
            allowance="a1",
        )
        rule.expires.GetCurrentTime()
        rule.expires.seconds += request.for_s
        one.rules.append(rule)
        return pb.AllowResponse(rule=rule)

    async def disallow(self, request: pb.DisallowRequest, _peer: Peer) -> pb.DisallowResponse:
        one = self._one(request.workload)
        found = [rule for rule in one.rules if rule.allowance and rule.allowance == request.allowance]
        if not found:
            raise Refused(StatusWord.NOT_FOUND, f"{request.allowance!r} is no allowance of {one.name}")
        one.rules.remove(found[0])
        return pb.DisallowResponse(cut=1)

    async def set_session(self, request: pb.SetSessionRequest, _peer: Peer) -> pb.SetSessionResponse:
        one = self._one(request.workload)
        one.who.Clear()
        one.ClearField("session_until")
        if request.token:
            if request.token != "a.good.token":
                raise Refused(StatusWord.PRECONDITION, f"{request.token!r} is signed by nobody")
            one.who.session, one.who.user = "s-42", "al\x1bice"
            one.session_until.GetCurrentTime()
            one.session_until.seconds += 300
        return pb.SetSessionResponse(workload=one, cut=1)

    async def watch_verdicts(
        self, request: pb.WatchVerdictsRequest, _peer: Peer
    ) -> AsyncGenerator[pb.WatchVerdictsResponse, None]:
        wanted = request.filter
        only = Filter(frozenset(map(Verdict, wanted.verdicts)), wanted.workload, parse_to(wanted.to))
        try:
            while self.flood:
                self.flooded += 1
                yield pb.WatchVerdictsResponse(verdicts=[to_wire(self.flood)] * 100)
            if request.HasField("since"):
                past = [r for r in LOG if r.time_ns >= request.since.ToNanoseconds() and only.accepts(r)]
                yield pb.WatchVerdictsResponse(verdicts=map(to_wire, past), lost=3)
            if request.follow:
                yield pb.WatchVerdictsResponse(is_live=True)
                for at in range(1_000_000):
                    await asyncio.sleep(0.05)
                    await self._trouble()
                    later = replace(LOG[1], time_ns=(START_S + 10 + at) * 10**9)
                    yield pb.WatchVerdictsResponse(verdicts=[to_wire(later)] if only.accepts(later) else [])
        finally:
            self.ended.append("watch_verdicts")

    async def list_grants(self, request: pb.ListGrantsRequest, _peer: Peer) -> pb.ListGrantsResponse:
        self._one(request.workload)
        grant = pb.Grant(name="api.example.com", address=ip_address("203.0.113.10").packed)
        grant.until.GetCurrentTime()
        grant.until.seconds += 600
        return pb.ListGrantsResponse(grants=[grant])

    async def explain(self, request: pb.ExplainRequest, _peer: Peer) -> pb.ExplainResponse:
        one = self._one(request.workload)
        is_allowed = request.destination.startswith("api.")
        found = pb.Explanation(
            address=ip_address("203.0.113.10").packed if is_allowed else b"",
            verdict=1 if is_allowed else 2,  # type: ignore[arg-type]
            reason=(Reason.NAME_ALLOWED if is_allowed else Reason.NAME_NOT_ALLOWED).value,  # type: ignore[arg-type]
            rule="model-api" if is_allowed else "", policy="coding-agent",
            text="its name is granted at this address" if is_allowed else "no rule names this host",
        )  # fmt: skip
        return pb.ExplainResponse(explanations=[found], mode=one.mode)

    async def get_counters(self, _request: pb.GetCountersRequest, _peer: Peer) -> pb.GetCountersResponse:
        return pb.GetCountersResponse(counters=[pb.Counter(verdict=2, reason=84, count=7)], lost_events=3)  # type: ignore[arg-type]

    async def reload(self, _request: pb.ReloadRequest, _peer: Peer) -> pb.ReloadResponse:
        await self._trouble()
        return pb.ReloadResponse(policies=self._policies(), switched=2)


def _workload(name: str, number: int) -> pb.Workload:
    rule = pb.RuleOrigin(rule="model-api", policy="coding-agent", text="tls api.example.com:443")
    one = pb.Workload(
        name=name, cgroup=f"/agents.slice/{name}.scope", id=4000 + number, labels={"agent": "coder"},
        policies=["coding-agent"], mode=pb.MODE_ENFORCE, source="subject", rules=[rule], policy_id=number, gates=1,
        traffic=pb.Traffic(packets_out=40, bytes_out=51_200, packets_in=61, bytes_in=3 << 20, forwarded=12, dropped=3),
    )  # fmt: skip
    one.since.GetCurrentTime()
    return one


class Running:
    """A server in a thread with a loop of its own."""

    def __init__(self, agent: FakeAgent) -> None:
        self.agent = agent
        self.loop = asyncio.new_event_loop()
        self.server: Server | None = None
        self._thread = threading.Thread(target=self.loop.run_forever, name="fake agent")
        self._thread.start()

    def do(self, awaitable: Awaitable[Any], timeout_s: float = 30) -> Any:
        """Does it in the server's loop."""

        async def awaited() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(awaited(), self.loop).result(timeout_s)

    def end(self) -> None:
        """Stops the server and its loop."""
        if self.server:
            self.do(self.server.stop(0.2))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@contextmanager
def fake_agent(path: Path, group: str | None = None, **options: Any) -> Iterator[Running]:
    """A fake agent at this socket."""
    running = Running(FakeAgent())
    try:
        running.server = running.do(serve(running.agent, path, group, **options))
        yield running
    finally:
        running.end()


async def _main(path: Path) -> None:
    agent = FakeAgent()
    server = await serve(agent, path, None)
    print("ready", flush=True)
    await asyncio.Event().wait()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
