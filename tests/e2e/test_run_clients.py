"""Real clients under `exeat run`: each reaches the host it may, and gets an error at once at those it may not."""

import errno
import json
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from shlex import quote

import pytest

from bed import Counts
from e2e.run_exeat import PYTHON, Stage, denials, open_stage

FAST_MS = 50  # DESIGN §1.5: an error at once, never a hang
ROUNDS = 5
ALLOWED = ("v4.shop.test", "v6.shop.test")
DENIED_NAMES = ("v4.evil.test", "v6.evil.test")  # at an address that is allowed
DENIED_ADDRESSES = ("far4.shop.test", "far6.shop.test")  # under a name that is allowed
DENIED = DENIED_NAMES + DENIED_ADDRESSES

# {name} is to be reached over HTTPS, {ca} to be trusted. Each prints what the server says.
CLIENTS = {
    "curl": "curl -sS --cacert {ca} https://{name}/",
    "openssl": "(printf 'GET / HTTP/1.1\\r\\n\\r\\n'; sleep 0.3) | "
    "openssl s_client -quiet -no_ign_eof -verify_return_error -CAfile {ca} -connect {name}:443 -servername {name} 2>&1",
    "python": f"{PYTHON} -c 'import ssl, sys, urllib.request as u; "
    "print(u.urlopen(sys.argv[1], context=ssl.create_default_context(cafile=sys.argv[2])).read().decode())' "
    "https://{name}/ {ca} 2>&1",
    "node": "NODE_EXTRA_CA_CERTS={ca} node -e '"
    'require("https").get(process.argv[1], {{autoSelectFamily: false}}, (r) => r.pipe(process.stdout))'
    '.on("error", (e) => {{ console.log(e.code); process.exitCode = 1 }})\' https://{name}/ 2>&1',
    "wget": "wget -q -O - --tries=1 --ca-certificate={ca} https://{name}/",
    "git": "GIT_SSL_CAINFO={ca} git ls-remote https://{name}/ 2>&1",
    "gnutls-cli": "(printf 'GET / HTTP/1.1\\r\\n\\r\\n'; sleep 0.3) | gnutls-cli --x509cafile {ca} {name} 2>&1",
}
PROGRAMS = {name: shutil.which(name) is not None for name in CLIENTS} | {"python": True}


@dataclass
class Called:
    """What one client got from one host."""

    status: int
    output: str


@dataclass
class Round:
    """What all clients got, and what the hosts counted."""

    calls: dict[tuple[str, str], Called]
    counts: dict[str, Counts]
    stderr: str


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One stage for the whole file."""
    with open_stage() as it:
        yield it


def script(stage: Stage) -> str:
    """Every client, one after the other, calls every host."""
    lines = []
    for client, command in CLIENTS.items():
        if PROGRAMS[client]:
            for name in ALLOWED + DENIED:
                line = command.format(name=name, ca=stage.ca_file)
                lines.append(f"echo '== {client} {name}'; timeout 10 bash -o pipefail -c {quote(line)}; echo \"=! $?\"")
    return "\n".join(lines)


def perform(stage: Stage, *, is_free: bool) -> Round:
    """All of them, with or without exeat."""
    stage.reset()
    ran = (stage.without_exeat if is_free else stage.run)("bash", "-c", script(stage), timeout=100)
    calls = {}
    for part in ran.stdout.split("== ")[1:]:
        head, rest = part.split("\n", 1)
        output, status = rest.rsplit("=! ", 1)
        client, name = head.split()
        calls[client, name] = Called(int(status), output)
    return Round(calls, {host.name: host.count() for host in (stage.shop, stage.evil, stage.far)}, ran.stderr)


@pytest.fixture(scope="module")
def free(stage: Stage) -> Round:
    """The twin: the same clients with nobody in their way."""
    return perform(stage, is_free=True)


@pytest.fixture(scope="module")
def held(stage: Stage) -> Round:
    """The same clients under the policy."""
    return perform(stage, is_free=False)


def answer(client: str, name: str) -> str:
    """What the server's answer leaves in a client's output."""
    return f"{name}/" if client == "git" else f"I am {name}"  # git finds no repository, and says where


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_gets_its_answer_where_the_policy_allows_it(client: str, held: Round) -> None:
    """Over IPv4 and IPv6, and it is the right server that answers."""
    if not PROGRAMS[client]:
        pytest.skip(f"{client} is not installed here")
    for name in ALLOWED:
        called = held.calls[client, name]
        assert answer(client, name) in called.output, called
        assert called.status == 0 or client == "git", called
        assert name in held.counts["shop"].sni


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_is_denied_where_it_would_have_been_answered(client: str, held: Round, free: Round) -> None:
    """By name and by address, over IPv4 and IPv6; without exeat the same command gets its answer."""
    if not PROGRAMS[client]:
        pytest.skip(f"{client} is not installed here")
    for name in DENIED:
        assert answer(client, name) in free.calls[client, name].output
        called = held.calls[client, name]
        assert called.status not in (0, 124), called  # 124: it hung
        assert f"I am {name}" not in called.output


def test_the_denied_servers_got_not_one_byte(held: Round, free: Round) -> None:
    """Of all clients together. The one denied by name saw empty connections, the one denied by address nothing."""
    clients = sum(PROGRAMS.values())
    assert free.counts["evil"].bytes > 200 * clients
    assert free.counts["far"].bytes > 200 * clients
    assert held.counts["evil"].bytes == 0
    assert held.counts["evil"].connections >= 2 * clients
    assert held.counts["far"].is_untouched


def test_every_denial_is_told_once_though_many_clients_met_it(held: Round) -> None:
    """Four destinations, four lines."""
    lines = denials(held.stderr)
    assert len(lines) == len(DENIED), held.stderr
    for name in DENIED_NAMES:
        assert sum(f"{name} (tcp " in line and "name_not_allowed" in line for line in lines) == 1
    assert sum("address_not_allowed" in line for line in lines) == len(DENIED_ADDRESSES)


STOPWATCH = """
import json, socket, ssl, sys, time

context = ssl.create_default_context(cafile=sys.argv[1])
told = []
for name in sys.argv[2:]:
    family, *_, address = socket.getaddrinfo(name, 443, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as plain:
        plain.settimeout(5)
        step, begin = "connect", time.monotonic()
        try:
            plain.connect(address)
            tls = context.wrap_socket(plain, server_hostname=name, do_handshake_on_connect=False)
            step, begin = "send", time.monotonic()
            tls.do_handshake()
            tls.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
            step = tls.recv(4096).split()[-1].decode()
            number = 0
        except OSError as error:
            number = error.errno
        told.append([name, step, number, (time.monotonic() - begin) * 1000])
print(json.dumps(told))
"""

NODE_STOPWATCH = """
const net = require("net"), dns = require("dns"), tls = require("tls"), fs = require("fs");
const [ca, ...names] = process.argv.slice(1);
const told = [];
async function call(name) {
  const { address } = await dns.promises.lookup(name);
  return new Promise((resolve) => {
    let step = "connect", begin = performance.now();
    const done = (step, code) => { told.push([name, step, code, performance.now() - begin]); resolve(); };
    const plain = net.connect({ host: address, port: 443 });
    plain.on("error", (error) => { if (step === "connect") done(step, error.code); });
    plain.on("connect", () => {
      step = "send"; begin = performance.now();
      const secure = tls.connect({ socket: plain, servername: name, ca: fs.readFileSync(ca) });
      secure.on("error", (error) => done(step, error.code));
      secure.on("secureConnect", () => secure.write("GET / HTTP/1.1\\r\\n\\r\\n"));
      secure.on("data", (data) => { done(data.toString().trim().split(" ").pop(), 0); secure.destroy(); });
    });
  });
}
(async () => { for (const name of names) await call(name); console.log(JSON.stringify(told)); process.exit(0); })();
"""

WATCHES = {"python": (PYTHON, "-c", STOPWATCH), "node": ("node", "-e", NODE_STOPWATCH)}
# Node.js (20) forgets the EACCES of a hello's write; that exeat ends the connection is what its program sees.
ERRORS = {
    "python": {"connect": errno.EPERM, "send": errno.EACCES},
    "node": {"connect": "EPERM", "send": "ECONNABORTED"},
}


@pytest.mark.parametrize("client", WATCHES)
def test_a_denial_reaches_the_program_within_50_ms(client: str, stage: Stage) -> None:
    """From connect() by address, from the first send() by name; the clock runs inside the client."""
    if not PROGRAMS[client]:
        pytest.skip(f"{client} is not installed here")
    stage.reset()
    ran = stage.run(*WATCHES[client], stage.ca_file, *(ALLOWED + DENIED) * ROUNDS)
    told = json.loads(ran.stdout)
    assert len(told) == len(ALLOWED + DENIED) * ROUNDS
    for name, steps, number in [
        *((name, name, 0) for name in ALLOWED),
        *((name, "send", ERRORS[client]["send"]) for name in DENIED_NAMES),
        *((name, "connect", ERRORS[client]["connect"]) for name in DENIED_ADDRESSES),
    ]:
        mine = [call for call in told if call[0] == name]
        assert {(step, error) for _, step, error, _ in mine} == {(steps, number)}, mine
        if name in DENIED:
            assert statistics.median(call[3] for call in mine) < FAST_MS, mine
    assert [host.count().bytes for host in stage.denied] == [0, 0]
