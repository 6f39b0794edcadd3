"""A test bed on one machine: a client and its hosts in two throw-away network namespaces.

    with Bed() as bed:
        shop = bed.add("shop.test")                      # HTTPS on 443, IPv4 and IPv6
        assert curl(bed, shop).stdout == "I am shop.test\\n"
        assert shop.count().connections == 1
        resolver = bed.add("resolver", Dns({"shop.test": shop.addresses}), also=("8.8.8.8",))
        assert resolver.questions() == []                # nobody has asked yet; it lies and stalls as told: Manner

It makes real servers with real OpenSSL, says which server answered, and proves what did *not* arrive: payload bytes as
the servers read them, and frames on the wire. It knows nothing of exeat, sends nothing to the machine's own network,
and leaves nothing behind: no namespace has a name, and each goes with its last process. (Only after kill -9 do
certificates stay in the temporary directory, under exeat-bed-*.)
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Mapping
from types import TracebackType

from bed.certificates import Authority, session_authority
from bed.client import Finished, call_in, curl, run_in, start_in
from bed.hosts import Host, Hosts
from bed.namespace import missing_capability
from bed.network import Network
from bed.openssl import OpensslServer
from bed.services import Asked, Counts, Dns, Manner, Service, Tcp, Tls, Udp
from bed.sniffer import Sniffer, Tally, Toward

__all__ = [
    "Asked", "Bed", "Counts", "Dns", "Finished", "Host", "Manner", "Network", "OpensslServer", "Sniffer", "Tally",
    "Tcp", "Tls", "Toward", "Udp", "call_in", "curl", "missing_capability", "run_in", "start_in",
]  # fmt: skip


class Bed:
    """Network, hosts and authority together, from `with` to its end."""

    def __init__(
        self,
        client_sysctls: Mapping[str, str | int] | None = None,
        hosts_sysctls: Mapping[str, str | int] | None = None,
    ) -> None:
        self.network = Network(client_sysctls, hosts_sysctls)
        self.authority: Authority
        self.hosts: Hosts
        self._processes: list[subprocess.Popen[str]] = []
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Bed:
        with contextlib.ExitStack() as opening:
            self.authority = session_authority()
            opening.enter_context(self.network)
            self.hosts = Hosts(self.network, self.authority)
            opening.callback(self.hosts.close)
            opening.callback(self._end_processes)
            self._open = opening.pop_all()
        return self

    def add(self, name: str, *services: Service, also: tuple[str, ...] = ()) -> Host:
        """Put up a host with these services (default Tls()) at fresh addresses and those in `also`, e.g. 8.8.8.8."""
        return self.hosts.add(name, *services, also=also)

    def host(self, name: str) -> Host:
        """A host put up earlier."""
        return self.hosts[name]

    def openssl_server(self, name: str, second_name: str, *options: str, groups: str | None = None) -> OpensslServer:
        """Start a real `openssl s_server` that switches to second_name by SNI. See OpensslServer."""
        server = OpensslServer(self.network, self.authority, (name, second_name), groups, options)
        self._open.callback(server.close)
        return server

    def sniff(self) -> Sniffer:
        """Record what arrives on the hosts' end of the wire, from now on."""
        return self.network.sniff()

    def own(self, process: subprocess.Popen[str]) -> None:
        """Take over a process: it is killed when the bed closes."""
        self._processes.append(process)

    def disown(self, process: subprocess.Popen[str]) -> None:
        """Let go of a process that has ended."""
        self._processes.remove(process)

    def _end_processes(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def close(self) -> None:
        """End everything. May be called twice."""
        self._open.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
