"""The agent's settings: what each field means, and at which line each misreadable one is refused."""

import socket
from ipaddress import ip_address
from pathlib import Path

import pytest

from exeat.errors import PolicyError
from exeat.interface_settings import GATE_ADDRESSES, InterfaceSettings
from exeat.plane_access import Endpoint, PlaneAccess
from exeat.session_settings import SessionSettings
from exeat.settings import DEFAULT_FILE, Listen, LogSettings, NodeSettings, Settings, read_settings

_PACKAGING = Path(__file__).parents[2] / "packaging"
HEAD = "apiVersion: exeat.dev/v1\nkind: AgentSettings\n"


def read(text: str) -> Settings:
    """Settings whose third line is the first of this text."""
    return read_settings(HEAD + text, "exeat.yaml")


def problems_of(text: str) -> list[str]:
    """All problems of a whole file, each `line: sentence`."""
    with pytest.raises(PolicyError) as refusal:
        read_settings(text, "exeat.yaml")
    assert all(problem.startswith("exeat.yaml:") and problem.isprintable() for problem in refusal.value.problems)
    return [problem.removeprefix("exeat.yaml:") for problem in refusal.value.problems]


# What settings mean


def test_every_field_is_read() -> None:
    """None of them has its default here."""
    text = """\
spec:
  policies: /srv/policies
  state: /srv/state
  runtime: /run/other
  log: {directory: /srv/log, max_bytes: 2G, keep: 30, key: /srv/key}
  api: {socket: /run/other/api.sock, group: wheel}
  metrics: {listen: "[::1]:9999"}
  interfaces: {managed: ["tap-*", veth0], gate: ["2001:db8::53", 198.51.100.53]}
  sessions: {keys: /srv/sessions.pub, audience: exeat-staging}
  node: {name: node-1.example.com, labels: {role: sandbox, zone: "7"}}
  plane:
    endpoints: ["plane.example.com:9470", "192.0.2.1:9471", "[2001:db8::1]:9472"]
    ca: /etc/exeat/plane-ca.pem
    certificate: /etc/exeat/node.crt
    key: /etc/exeat/node.key
    public_key: /etc/exeat/plane.pub
    server_name: plane.internal
"""
    assert read(text) == Settings(
        policies=Path("/srv/policies"),
        state=Path("/srv/state"),
        runtime=Path("/run/other"),
        log=LogSettings(Path("/srv/log"), 2 * 10**9, 30, Path("/srv/key")),
        socket=Path("/run/other/api.sock"),
        group="wheel",
        metrics=Listen(ip_address("::1"), 9999),
        interfaces=InterfaceSettings(("tap-*", "veth0"), (ip_address("2001:db8::53"), ip_address("198.51.100.53"))),
        sessions=SessionSettings(Path("/srv/sessions.pub"), "exeat-staging"),
        node=NodeSettings("node-1.example.com", (("role", "sandbox"), ("zone", "7"))),
        plane=PlaneAccess(
            (Endpoint("plane.example.com", 9470), Endpoint("192.0.2.1", 9471), Endpoint("2001:db8::1", 9472)),
            Path("/etc/exeat/plane-ca.pem"),
            Path("/etc/exeat/node.crt"),
            Path("/etc/exeat/node.key"),
            Path("/etc/exeat/plane.pub"),
            "plane.internal",
        ),
    )


def test_a_node_is_known_by_its_hosts_name_and_has_no_plane_unless_it_is_told_of_one() -> None:
    """The shortest way to a plane are four fields."""
    assert Settings().node == NodeSettings(socket.gethostname(), ())
    assert Settings().plane is None
    plane = read("spec: {plane: {endpoints: ['p:1'], ca: /a, certificate: /b, key: /c}}\n").plane
    assert plane == PlaneAccess((Endpoint("p", 1),), Path("/a"), Path("/b"), Path("/c"))
    assert str(Endpoint("2001:db8::1", 9470)) == "[2001:db8::1]:9470"
    assert read("spec: {node: {labels: {role: sandbox}}}\n").node.name == socket.gethostname()


@pytest.mark.parametrize(
    ("line", "problems"),
    [
        ("plane: {}", ["`plane` has no `ca`", "`plane` has no `certificate`", "`plane` has no `key`",
                       "`plane` has no `endpoints`: write where the plane listens, as in `[plane.example.com:9470]`"]),
        ("plane: {endpoints: [], ca: /a, certificate: /b, key: /c}", ["`endpoints` is an empty list"]),
        ("plane: {endpoints: 'p:1', ca: /a, certificate: /b, key: /c}", ["`endpoints` is `p:1`: write a list"]),
        ("plane: {endpoints: [p], ca: /a, certificate: /b, key: /c}", ["`p` is no endpoint: write a name"]),
        ("plane: {endpoints: ['p:0'], ca: /a, certificate: /b, key: /c}", ["`p:0` is no endpoint"]),
        ("plane: {endpoints: ['1.2.3:1'], ca: /a, certificate: /b, key: /c}", ["`1.2.3:1` is no endpoint"]),
        ("plane: {endpoints: ['::1:1'], ca: /a, certificate: /b, key: /c}", ["`::1:1` is no endpoint"]),
        ("plane: {endpoints: ['[1.2.3.4]:1'], ca: /a, certificate: /b, key: /c}", ["`[1.2.3.4]:1` is no endpoint"]),
        ("plane: {endpoints: ['https://p:1'], ca: /a, certificate: /b, key: /c}", ["`https://p:1` is no endpoint"]),
        ("plane: {endpoints: ['p:1'], ca: a, certificate: /b, key: /c}", ["`ca` is `a`: write the whole path"]),
        ("plane: {endpoints: ['p:1'], ca: /a, certificate: /b, key: /c, public_key: k}", ["`public_key` is `k`"]),
        ("plane: {endpoints: ['p:1'], ca: /a, certificate: /b, key: /c, server_name: 'a b'}",
         ["`server_name` is `a b`: write a name"]),
        ("plane: {endpoints: ['p:1'], ca: /a, certificate: /b, key: /c, insecure: true}",
         ["`insecure` is no field of `plane`"]),
        ("node: {name: -a}", ["`name` is `-a`: write a name as in `node-1.example.com`"]),
        ("node: {name: 7}", ["`name` is a number"]),
        ("node: {labels: [a]}", ["`labels` is no mapping: write `labels: {label: value}`"]),
        ("node: {labels: {a: yes}}", ["the label `a` is a YAML boolean"]),
        ("node: {label: {a: b}}", ["`label` is no field of `node`; did you mean `labels`?"]),
    ],
)  # fmt: skip
def test_what_could_be_misread_about_node_and_plane_is_refused(line: str, problems: list[str]) -> None:
    """Nothing of how a plane is checked can be left out by a typo."""
    found = problems_of(HEAD + f"spec:\n  {line}\n")
    assert len(found) == len(problems)
    for one, expected in zip(found, problems, strict=True):
        assert one.startswith(f"4: {expected}")


@pytest.mark.parametrize("text", ["", "spec: {log: {keep: 8}}\n", "spec: {api: {group: exeat}}\n"])
def test_what_is_left_out_has_its_default(text: str) -> None:
    """The shortest settings are two lines."""
    assert read(text) == Settings()


def test_the_example_says_the_defaults() -> None:
    """It is the file that is installed, and a user reads it to learn them."""
    assert read_settings((_PACKAGING / "exeat.yaml").read_text(encoding="utf-8"), "exeat.yaml") == Settings()


def test_a_moved_directory_takes_with_it_what_is_inside() -> None:
    """The key is state, the socket is of this run; each can be written down by itself."""
    moved = read("spec: {state: /srv/s, runtime: /run/r}\n")
    assert (moved.log.key, moved.socket) == (Path("/srv/s/audit.key"), Path("/run/r/agent.sock"))


def test_guests_ask_at_addresses_that_nobody_else_has_unless_others_are_given() -> None:
    """Of one family alone, too: guests then ask over that one."""
    assert read("spec: {interfaces: {managed: [tap0]}}\n").interfaces == InterfaceSettings(("tap0",), GATE_ADDRESSES)
    assert read("spec: {interfaces: {gate: [198.51.100.53]}}\n").interfaces.gate == (ip_address("198.51.100.53"),)


@pytest.mark.parametrize("text", ["off", "'off'", '"off"'])
def test_metrics_are_off_with_quotes_and_without(text: str) -> None:
    """It is false to some YAML readers, text to others, and means the same to both."""
    assert read(f"spec: {{metrics: {{listen: {text}}}}}\n").metrics is None


@pytest.mark.parametrize(
    ("text", "size"),
    [("1Mi", 1 << 20), ("64M", 64 * 10**6), ("2Gi", 2 << 30), ("1024Gi", 1 << 40), ("1048576", 1 << 20)],
)
def test_sizes_have_the_usual_units(text: str, size: int) -> None:
    """Powers of 1000, and with an i of 1024."""
    assert read(f"spec: {{log: {{max_bytes: {text}}}}}\n").log.max_bytes == size


def test_a_place_to_listen_reads_back() -> None:
    """As an error message quotes it."""
    for text in ("127.0.0.1:9469", "[::1]:9469"):
        assert str(read(f"spec: {{metrics: {{listen: '{text}'}}}}\n").metrics) == text


# What is refused


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("policy: /a", "`policy` is no field of `spec`; did you mean `policies`?"),
        ("policies: policies.d", "`policies` is `policies.d`: write the whole path, as in `/var/lib/exeat/policies.d`"),
        ("policies: /etc/../a", "`policies` is `/etc/../a`: write the path without `..`"),
        ("state: /", "`state` is `/`: the root directory belongs to everybody"),
        ("state: ''", "`state` is empty"),
        ("state: [/a]", "`state` is a list: write text"),
        ("state: no", "`state` is a YAML boolean (`no`)"),
        ("log: /var/log", "`log` is `/var/log`: write fields"),
        ("log: {keep: 0}", "`keep` is `0`: write a number from 1 to 1000"),
        ("log: {max_bytes: 64MB}", "`64MB` is no number of bytes: write a whole number"),
        ("log: {max_bytes: 1k}", "`1k` is no number of bytes"),
        ("log: {max_bytes: 0}", "`0` is too small or too great"),
        ("log: {max_bytes: 1K}", "`1K` is too small or too great for one file: write a size from `1Mi` to `1024Gi`"),
        ("log: {max_bytes: 1025Gi}", "`1025Gi` is too small or too great"),
        ("log: {dir: /a}", "`dir` is no field of `log`"),
        ("api: {group: a b}", "`a b` is no group's name"),
        ("api: {group: 'exeat:'}", "`exeat:` is no group's name"),
        ("api: {socket: /" + "x" * 107 + "}", "`socket` has 108 bytes, of which the kernel takes 107: shorten it"),
        ("metrics: {}", "`metrics` has no `listen`: write where to listen"),
        ("metrics: {listen: 9469}", "`9469` is no place to listen: write `127.0.0.1:9469`, `[::1]:9469` or `off`"),
        ("metrics: {listen: 'localhost:9469'}", "`localhost:9469` is no place to listen"),
        ("metrics: {listen: '127.0.0.1:0'}", "`127.0.0.1:0` is no place to listen"),
        ("metrics: {listen: '127.0.0.1:65536'}", "`127.0.0.1:65536` is no place to listen"),
        ("metrics: {listen: '127.0.0.256:1'}", "`127.0.0.256:1` is no place to listen"),
        ("metrics: {listen: '::1:9469'}", "`::1:9469` is no place to listen"),
        ("metrics: {listen: no}", "`listen` is a YAML boolean (`no`)"),
        ("metrics: {listen: [a]}", "`listen` is a list"),
        ("sessions: {key: /a}", "`key` is no field of `sessions`; did you mean `keys`?"),
        ("sessions: {keys: a.pub}", "`keys` is `a.pub`: write the whole path"),
        ("sessions: {audience: ''}", "`audience` is empty"),
        ("sessions: {audience: 'x\u200by'}", "`audience` has characters that cannot be seen"),
        ("interfaces: [tap0]", "`interfaces` is a list: write fields"),
        ("interfaces: {manage: [tap0]}", "`manage` is no field of `interfaces`; did you mean `managed`?"),
        ("interfaces: {managed: 'tap-*'}", "`managed` is `tap-*`: write a list, as in `[a, b]`"),
        ("interfaces: {managed: []}", "`managed` is an empty list"),
        ("interfaces: {managed: [a/b]}", "`a/b` is no interface: write at most 15 characters, as in `tap-*`"),
        ("interfaces: {managed: [a-name-too-long-]}", "`a-name-too-long-` is no interface"),
        (
            "interfaces: {gate: ['198.51.100.53', '198.51.100.54']}",
            "`gate` has two addresses of IPv4: write one of each",
        ),
        ("interfaces: {gate: [gate.test]}", "`gate.test` is no address: write one like `172.16.0.2`"),
        (
            "interfaces: {gate: ['198.51.100.53/32']}",
            "`198.51.100.53/32` is no address: write `198.51.100.53`, without",
        ),
        ("interfaces: {gate: ['127.0.0.53']}", "`127.0.0.53` is a loopback address: write an address that one machine"),
        ("interfaces: {gate: ['::1']}", "`::1` is a loopback address"),
        ("interfaces: {gate: ['0.0.0.0']}", "`0.0.0.0` is nobody's address"),
        ("interfaces: {gate: ['224.0.0.251']}", "`224.0.0.251` is a multicast address"),
        ("interfaces: {gate: ['255.255.255.255']}", "`255.255.255.255` is reserved, or means everybody"),
        ("interfaces: {gate: ['::ffff:198.51.100.53']}", "`::ffff:198.51.100.53` is IPv4 in IPv6's clothes"),
        ("interfaces: {gate: ['fe80::53']}", "`fe80::53` is known on one link only"),
        ("interfaces: {gate: ['fe80::53%lo']}", "`fe80::53%lo` names an interface"),
        ("interfaces: {gate: ['169.254.169.254']}", "`169.254.169.254` is where clouds tell secrets"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused_at_its_line(line: str, problem: str) -> None:
    """One problem for one mistake, with what to write instead."""
    (found,) = problems_of(HEAD + f"spec:\n  {line}\n")
    assert found.startswith(f"4: {problem}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1: there are no settings in here: begin with `apiVersion: exeat.dev/v1` and `kind: AgentSettings`"),
        ("# nothing\n\n---\n# more\n", "1: there are no settings in here"),
        ("- a\n", "1: these are no settings: begin with `apiVersion: exeat.dev/v1`"),
        ("kind: AgentSettings\n", "1: the file has no `apiVersion`"),
        ("apiVersion: exeat.dev/v1\nkind: EgressPolicy\n", "2: `kind` is `EgressPolicy`: write `kind: AgentSettings`"),
        (HEAD + "spec:\n", "3: `spec` is empty"),
        (HEAD + "policies: /a\n", "3: `policies` is no field of the file"),
        (HEAD + "spec: {state: /a}\nspec: {state: /b}\n", "4: `spec` was given in line 3 already"),
        (HEAD + "spec: {state: /a\n", "4: this is no YAML"),
    ],
)
def test_a_file_of_another_kind_is_refused(text: str, problem: str) -> None:
    """As when a policy was meant; an empty file says nothing."""
    (found,) = problems_of(text)
    assert found.startswith(problem)


def test_all_problems_come_at_once() -> None:
    """In the order of lines."""
    found = problems_of("apiVersion: v1\nkind: AgentSettings\nspec:\n  stat: /a\n  log: {keep: x}\n")
    assert [int(problem.partition(":")[0]) for problem in found] == [1, 4, 5]


# The unit file


def unit() -> dict[str, list[str]]:
    """Every assignment of packaging/exeat.service."""
    assignments: dict[str, list[str]] = {}
    for line in (_PACKAGING / "exeat.service").read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            assignments.setdefault(name, []).append(value)
    return assignments


def test_the_unit_starts_the_agent_with_its_settings() -> None:
    """And its directories are where the defaults are."""
    assignments = unit()
    assert assignments["ExecStart"] == [f"/usr/bin/exeat agent --config {DEFAULT_FILE}"]
    default = Settings()
    directories = {
        "StateDirectory": Path("/var/lib") / assignments["StateDirectory"][0],
        "LogsDirectory": Path("/var/log") / assignments["LogsDirectory"][0],
        "RuntimeDirectory": Path("/run") / assignments["RuntimeDirectory"][0],
    }
    assert list(directories.values()) == [default.state, default.log.directory, default.runtime]


def test_the_unit_leaves_out_what_would_break_enforcement() -> None:
    """Each of these was thought of, and the unit says why it is not there."""
    assignments = unit()
    for name in ("MemoryDenyWriteExecute", "PrivateNetwork", "ProtectProc", "PrivateUsers", "IPAddressDeny"):
        assert name not in assignments
    assert assignments["Restart"] == ["always"]
    assert assignments["RuntimeDirectoryPreserve"] == ["yes"]  # enforcement outlives a stop, and so does its state
    assert assignments["ReadWritePaths"] == ["/sys/fs/bpf -/sys/kernel/rcu_expedited"]
    assert {"CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"} <= set(assignments["CapabilityBoundingSet"][0].split())


def test_every_choice_of_the_unit_is_explained() -> None:
    """Each group of lines below [Service] has a comment above it."""
    service = (_PACKAGING / "exeat.service").read_text().partition("[Service]")[2].partition("[Install]")[0]
    groups = [group for group in service.split("\n\n") if group.strip()]
    assert len(groups) > 10
    assert all(group.strip().startswith("#") for group in groups)
