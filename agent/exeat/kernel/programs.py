"""Which programs there are, what they are attached to, and what it costs to lack one."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Program:
    """One function of the C text. Numbers are enum bpf_prog_type and enum bpf_attach_type of linux/bpf.h."""

    name: str
    program_type: int
    attach_type: int  # -1: never attached
    guards: str  # what goes unjudged without it

    @property
    def is_linked(self) -> bool:
        """Whether it is attached to a cgroup, by a pinned link."""
        return self.program_type in (8, 9, 13, 18, 25)


PROGRAMS: tuple[Program, ...] = (
    Program("on_packet_out", 8, 1, "everything: packets that no other hook sees would leave unjudged"),
    Program("on_packet_in", 8, 0, "nothing: what comes in is not counted"),
    Program("on_tcp", 13, 3, "connections under tls rules: none can be verified, all are denied"),
    Program("on_message", 16, 7, "connections under tls rules: none can be verified, all are denied"),
    Program("on_connect4", 18, 10, "IPv4 connections: they would time out instead of failing at once"),
    Program("on_connect6", 18, 11, "IPv6 connections: they would time out instead of failing at once"),
    Program("on_send4", 18, 14, "IPv4 datagrams: they would vanish instead of failing at once"),
    Program("on_send6", 18, 15, "IPv6 datagrams: they would vanish instead of failing at once"),
    Program("on_receive4", 18, 19, "answers over IPv4: resolvers would not know from whom they come"),
    Program("on_receive6", 18, 20, "answers over IPv6: resolvers would not know from whom they come"),
    Program("on_peer4", 18, 29, "nothing: programs would see the gate where they asked a resolver"),
    Program("on_peer6", 18, 30, "nothing: programs would see the gate where they asked a resolver"),
    Program("on_option", 25, 22, "socket options that change what is on the wire"),
    Program("on_socket", 9, 2, "raw, MPTCP, SCTP and UDP-Lite sockets"),
    Program("on_frame_out", 3, -1, "frames of packet sockets, which pass no hook of a cgroup"),
    Program("on_frame_in", 3, -1, "frames of packet sockets, until they are routed"),
    Program("on_question", 3, -1, "`explain`, and the sweep of open connections after a change of policy"),
    Program("on_hello_question", 3, -1, "only tests"),
)
# Of tap.c: guests behind an interface. What it is attached to stands in guest_sides.py.
GUEST_PROGRAMS: tuple[Program, ...] = (
    Program("on_guest_name", 3, -1, "guests' connections under tls rules: none can be verified, all are denied"),
    Program("on_guest_bytes", 3, -1, "guests' connections under tls rules: none can be verified, all are denied"),
    Program("on_guest_hello", 3, -1, "guests' connections under tls rules: none can be verified, all are denied"),
    Program("on_guest_read", 3, -1, "guests' connections under tls rules: none can be verified, all are denied"),
    Program("on_guest_walk", 3, -1, "guests' connections under tls rules: none can go on"),
    Program("on_guest_refused", 3, -1, "guests' denials: they would time out instead of failing at once"),
    Program("on_guest_unknown", 3, -1, "guests: none of their connections can begin"),
    Program("on_guest_anew", 3, -1, "guests' open connections: they fall silent after a change of policy"),
    Program("on_guest_out", 3, -1, "guests: nothing that leaves a microVM or a pod by its interface is judged"),
    Program("on_guest_in", 3, -1, "guests: DNS answers do not reach them, and no server's word is noted"),
)
# What the map guest_steps holds, in its order. Twin: enum step in bpf/guest_state.h.
GUEST_STEPS = (
    "on_guest_hello", "on_guest_refused", "on_guest_unknown", "on_guest_anew", "on_guest_bytes", "on_guest_walk",
    "on_guest_read", "on_guest_name",
)  # fmt: skip
MESSAGE_PROGRAM = "on_message"
# What `exeat run` loads: what only tests ask keeps the verifier busy for a quarter of a second.
ENFORCING = tuple(program for program in PROGRAMS if program.name != "on_hello_question")
