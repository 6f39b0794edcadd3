"""What a registration is about: a cgroup, the cgroup of a process, or an interface, found now."""

import asyncio

from exeat.agent.guest_said import GuestSaid
from exeat.agent.host import Host
from exeat.agent.interface_ids import is_interface
from exeat.errors import ExeatError, Refused, StatusWord
from exeat.v1 import agent_pb2 as pb

_WORDS_MAX = 64  # addresses, or gateways, of one guest


async def target_of(request: pb.RegisterRequest, host: Host) -> tuple[str, int]:
    """Its path, or the interface's name, and its id. Raises Refused."""
    what = request.WhichOneof("target")
    if what == "interface":
        path = request.interface
        if not path or "/" in path:
            raise _invalid("say which interface, by its name as `ip link` shows it")
        await _have_programs(host)
    elif what == "pid":
        path = cgroup_of_process(request.pid)
    elif request.cgroup.startswith("/"):
        path = "/" + request.cgroup.strip("/")
    else:
        raise _invalid("say which cgroup, by its path below the cgroup2 mount from a slash on, by a process, or "
                       "which interface, by its name")  # fmt: skip
    if path == "/":
        raise Refused(StatusWord.PRECONDITION, "the root cgroup is the host: name one below it")
    host.take(host.roll.find(path))
    workload = host.roll.id_of(path)
    if workload is None:
        kind = "interface" if what == "interface" else "cgroup"
        where = " in the agent's network namespace" if what == "interface" else ""
        raise Refused(StatusWord.NOT_FOUND, f"there is no {kind} {path}{where}")
    _check_interface(workload, host)
    return path, workload


async def session_target(text: str, host: Host) -> int | None:
    """A cgroup, container or interface that is called exactly so, be it a workload yet or not. Raises Refused."""
    found = [one.id for one in host.enforcer.bound.values() if text in (one.name, one.path)]
    if not found and text.startswith("/"):
        host.take(host.roll.find(text))
    if not found and text:
        found = [one for one in _candidates(host) if text in _names_of(one, host)]
    if len(found) > 1:
        raise Refused(StatusWord.PRECONDITION, f"{text} is {len(found)} cgroups: name one of them by its path")
    if not found:
        return None
    if is_interface(found[0]):
        await _have_programs(host)
        _check_interface(found[0], host)
    return found[0]


def _candidates(host: Host) -> list[int]:
    return [one for path in host.roll.paths() if path != "/" and (one := host.roll.id_of(path)) is not None]


def _names_of(workload: int, host: Host) -> tuple[str, ...]:
    return host.assigning.names_of(workload, host.assigning.name_of(workload))


def said_of(request: pb.RegisterRequest) -> GuestSaid | None:
    """What is said of the guest; None: nothing. Whether it means something is seen where it is used. Raises Refused."""
    if not request.HasField("guest"):
        return None
    if request.WhichOneof("target") != "interface":
        raise _invalid("addresses are said of the guest behind an interface: name one, or leave them out")
    guest = request.guest
    if max(len(guest.addresses), len(guest.gateways)) > _WORDS_MAX:
        raise _invalid(f"at most {_WORDS_MAX} addresses and {_WORDS_MAX} gateways of a guest can be kept")
    said = GuestSaid(
        guest.mac, tuple(guest.addresses), tuple(guest.gateways), guest.gateway_mac, allows_dhcp=not guest.no_dhcp
    )
    return None if said.is_empty else said


def cgroup_of_process(pid: int) -> str:
    """Its path in the cgroup2 hierarchy."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as lines:
            path = next(line[3:].rstrip("\n") for line in lines if line.startswith("0::"))
    except (OSError, StopIteration):
        raise Refused(StatusWord.NOT_FOUND, f"there is no process {pid}") from None
    if path.startswith("/../"):
        raise Refused(StatusWord.PRECONDITION, f"process {pid} is outside of this cgroup namespace")
    return path


async def _have_programs(host: Host) -> None:
    """Where they are being loaded it takes some seconds, once, in which everything else goes on."""
    interfaces = host.roll.interfaces
    if not interfaces.is_started:
        try:
            await asyncio.to_thread(interfaces.start)
        except OSError as error:
            raise ExeatError(f"the programs for interfaces could not be loaded: {error}") from error


def _check_interface(workload: int, host: Host) -> None:
    if is_interface(workload) and (why := host.roll.interfaces.why_no_guest(workload)):
        raise Refused(StatusWord.PRECONDITION, why)


def _invalid(sentence: str) -> Refused:
    return Refused(StatusWord.INVALID, sentence)
