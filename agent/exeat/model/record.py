"""One verdict with everything that is known of it, as operators and machines get it."""

from dataclasses import dataclass

from exeat.model.identity import Who
from exeat.model.networks import Address
from exeat.model.verdicts import Reason, Verdict


@dataclass(frozen=True, slots=True)
class Process:
    """Who asked: the process that opened or connected the socket."""

    pid: int
    comm: str
    uid: int


@dataclass(frozen=True, slots=True)
class Record:
    """One verdict."""

    time_ns: int  # since 1970
    verdict: Verdict
    reason: Reason
    hook: str  # where it was judged: socket, option, connect, send, hello, packet, frame or query
    workload: str  # the cgroup's path
    policy: str
    rule: str | None
    process: Process
    protocol: int  # IPPROTO_*; 262 is MPTCP
    address: Address | None
    port: int
    source: Address | None
    source_port: int
    name: str | None  # the SNI or the name asked; odd bytes are escaped
    bytes: int  # of the hello, datagram or packet that was judged
    detail: int  # a socket option (level << 16 | option), a protocol, or a query's type
    judged_ns: int  # how long the judgement took
    count: int = 1  # of the same questions, told in one
    evidence: str | None = None  # what was measured, where that is the reason
    who: Who | None = None  # what people call the workload

    @property
    def is_denial(self) -> bool:
        """Whether something was, or in monitor mode would have been, denied."""
        return self.verdict is not Verdict.FORWARDED
