"""A stage for the gate's clients: programs that resolve a name by their own means, then call whom they found.

    shop      *.shop.test: TLS on 443 and plain TCP on 7, over IPv4 and IPv6
    resolver  knows those, and evil.test with all that is below it, which leads to the same addresses

Programs are called in two places: under `exeat run` in the caller's own network namespace, and in a container, that is
in a network and a mount namespace of their own, with a gate that runs outside and listens inside.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bed import Bed, Finished, Host, Tcp, Tls, run_in
from bed.namespace import Namespace
from bed.network import lay_line
from bed.services import Zone
from e2e.gatekeeper import fresh_resolver

PYTHON = "/usr/bin/python3"
EXEAT = (sys.executable, "-m", "exeat.cli.main")
BUILD = Path(__file__).parents[2] / "build" / "clients"  # `make clean` removes it
BUILD_S = 300.0  # Go compiles its library once, without cgo
LARGE, LARGE_COUNT = "large.shop.test", 50  # more than 512 bytes, less than 1232
NOBODY4, NOBODY6 = "192.0.2.53", "2001:db8:53::53"  # no server is there: whoever answers is the gate

GO = """\
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

func fail(err error) {
	fmt.Println(err)
	os.Exit(1)
}

func main() {
	name := os.Args[1]
	began := time.Now()
	addresses, err := (&net.Resolver{PreferGo: true}).LookupHost(context.Background(), name)
	fmt.Printf("took_ms %.3f\\n", float64(time.Since(began).Microseconds())/1000)
	if err != nil {
		fail(err)
	}
	fmt.Println(addresses)
	ca, err := os.ReadFile(os.Args[2])
	if err != nil {
		fail(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	where := net.JoinHostPort(addresses[0], "443")
	conn, err := tls.Dial("tcp", where, &tls.Config{ServerName: name, RootCAs: roots})
	if err != nil {
		fail(err)
	}
	fmt.Fprintf(conn, "GET / HTTP/1.1\\r\\nHost: %s\\r\\n\\r\\n", name)
	said := make([]byte, 4096)
	count, err := io.ReadAtLeast(conn, said, 1)
	if err != nil {
		fail(err)
	}
	fmt.Println(string(said[:count]))
}
"""

# Linked with musl: its resolver asks every server of resolv.conf at once, on one socket that is not connected.
C = """\
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
  struct timespec began, ended;
  char said[256];
  int error, got, sock;

  clock_gettime(CLOCK_MONOTONIC, &began);
  error = getaddrinfo(argv[1], "7", &hints, &found);
  clock_gettime(CLOCK_MONOTONIC, &ended);
  printf("took_ms %f\\n", (ended.tv_sec - began.tv_sec) * 1e3 + (ended.tv_nsec - began.tv_nsec) / 1e6);
  if (error) {
    puts(gai_strerror(error));
    return 1;
  }
  sock = socket(found->ai_family, SOCK_STREAM, 0);
  if (connect(sock, found->ai_addr, found->ai_addrlen)) {
    perror("connect");
    return 1;
  }
  send(sock, "hello\\n", 6, 0);
  shutdown(sock, SHUT_WR);
  while ((got = read(sock, said, sizeof(said))) > 0)
    fwrite(said, 1, got, stdout);
  return 0;
}
"""

SECURE = """
import socket, ssl, sys, time
name, ca = sys.argv[1:]
began = time.monotonic()
try:
    family, *_, address = socket.getaddrinfo(name, 443, type=socket.SOCK_STREAM)[0]
finally:
    print("took_ms", (time.monotonic() - began) * 1000)
with socket.socket(family, socket.SOCK_STREAM) as plain:
    plain.connect(address)
    with ssl.create_default_context(cafile=ca).wrap_socket(plain, server_hostname=name) as secure:
        secure.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
        print(secure.recv(4096))
"""

# dns.lookup is the C library's getaddrinfo, dns.Resolver is c-ares.
NODE = """
const dns = require("dns").promises, fs = require("fs"), tls = require("tls");
const [way, name, ca] = process.argv.slice(1);
const find = {
  lookup: async () => (await dns.lookup(name)).address,
  "c-ares": async () => (await new dns.Resolver()[name.startsWith("v6") ? "resolve6" : "resolve4"](name))[0],
}[way];
const fail = (error) => { console.log(error.code); process.exit(1); };
(async () => {
  const began = performance.now();
  let host;
  try { host = await find(); } finally { console.log("took_ms", performance.now() - began); }
  const secure = tls.connect({ host, port: 443, servername: name, ca: fs.readFileSync(ca) });
  secure.on("error", fail);
  secure.on("secureConnect", () => secure.write("GET / HTTP/1.1\\r\\n\\r\\n"));
  secure.on("data", (data) => { console.log(data.toString()); process.exit(0); });
})().catch(fail);
"""

# What only resolves hands the address on to curl, which asks nobody then.
THEN_CURL = """
host=$(printf '%s' "$found" | tail -n 1)
test -n "$host" || exit 1
case $host in *:*) host="[$host]" ;; esac
exec curl -sS --cacert "$2" --resolve "$1:443:$host" "https://$1/"
"""
GETENT = """found=$(getent ahosts "$1" | awk '{ print $1 }')""" + THEN_CURL
DIG = (
    """case $1 in v6.*) kind=AAAA ;; *) kind=A ;; esac
told=$(dig +noall +answer +stats "$1" "$kind")
printf '%s' "$told" | sed -n 's/;; Query time: /took_ms /p'
found=$(printf '%s' "$told" | awk '$4 == "'$kind'" { print $5 }')"""
    + THEN_CURL
)

# Each call of a list in turn, and what became of it.
DRIVER = """
import json, subprocess, sys, time
told = []
for client, name, argv in json.load(open(sys.argv[1])):
    began = time.monotonic()
    try:
        ran = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=15)
        status, output = ran.returncode, (ran.stdout + ran.stderr).decode(errors="replace")
    except subprocess.TimeoutExpired:
        status, output = 124, "it hung"
    told.append([client, name, status, output, (time.monotonic() - began) * 1000])
print(json.dumps(told))
"""


@dataclass(frozen=True)
class Call:
    """One program that called one name, and what it got."""

    client: str
    name: str
    status: int
    output: str
    wall_ms: float

    @property
    def took_ms(self) -> float:
        """How long its resolver took by its own clock; of a program that has none, how long it lived altogether."""
        own = [line.split()[1] for line in self.output.splitlines() if line.startswith("took_ms")]
        return float(own[0]) if own else self.wall_ms


@dataclass(frozen=True)
class GateStage:
    """The hosts, and a container beside the bed's client namespace."""

    bed: Bed
    shop: Host
    resolver: Host
    container: Namespace
    directory: Path
    clients: dict[str, list[str]]

    @property
    def ca_file(self) -> str:
        """What clients must trust."""
        return str(self.bed.authority.ca_file)

    def resolv_conf(self, *lines: str) -> Path:
        """A resolv.conf of these lines, the real resolver by default."""
        text = "".join(f"{line}\n" for line in lines or (f"nameserver {self.resolver.address4}",))
        path = self.directory / f"resolv-{hashlib.sha256(text.encode()).hexdigest()[:8]}.conf"
        path.write_text(text)
        return path

    def around(self, argv: Sequence[str], *lines: str) -> list[str]:
        """The command line in a mount namespace of its own that has such a resolv.conf."""
        conf = str(self.resolv_conf(*lines))
        return ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', conf, *argv]

    def finish(
        self,
        argv: Sequence[str],
        *,
        cgroup: Path | None = None,
        at: Namespace | None = None,
        lines: Sequence[str] = (),
        timeout: float = 100.0,
    ) -> Finished:
        """A command to its end, without what sudo left in the environment: `exeat run` would run as that user."""
        clean = [f"-u{name}" for name in os.environ if name.startswith("SUDO_")]
        line = self.around(["env", *clean, *argv], *lines)
        return run_in(self.bed, line, cgroup=cgroup, at=at, timeout=timeout)

    def driver(self, *names: str) -> list[str]:
        """The command line by which every client, one after the other, calls these names."""
        calls = [(client, name, [*argv, name, self.ca_file]) for client, argv in self.clients.items() for name in names]
        path = self.directory / "calls.json"
        path.write_text(json.dumps(calls))
        return [PYTHON, "-c", DRIVER, str(path)]


def read_calls(output: str) -> list[Call]:
    """What the driver told."""
    return [Call(*told) for told in json.loads(output)]


# Every client, and the program without which it cannot be.
CLIENTS = {
    "getent": "getent",
    "dig": "dig",
    "curl": "curl",
    "python": PYTHON,
    "node": "node",
    "c-ares": "node",
    "go": "go",
    "musl": "musl-gcc",
}


def is_installed(client: str) -> bool:
    """Whether it can be called here."""
    return shutil.which(CLIENTS[client]) is not None


def make_clients() -> dict[str, list[str]]:
    """The command line of every client that is installed; the name to call and the file to trust come behind it."""
    made = {
        "getent": ["sh", "-c", GETENT, "getent"],
        "dig": ["sh", "-c", DIG, "dig"],
        "curl": ["sh", "-c", 'exec curl -sS --cacert "$2" "https://$1/"', "curl"],
        "python": [PYTHON, "-c", SECURE],
        "node": ["node", "-e", NODE, "lookup"],
        "c-ares": ["node", "-e", NODE, "c-ares"],
        "go": [_built("go", GO)],
        "musl": [_built("musl-gcc", C)],
    }
    return {client: argv for client, argv in made.items() if is_installed(client)}


def _built(compiler: str, source: str) -> str:
    """The program, compiled at most once for each state of its source; where the compiler is missing, only its path."""
    program = BUILD / f"{compiler}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    if program.exists() or not shutil.which(compiler):
        return str(program)
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as place:
        text = Path(place, "main.go" if compiler == "go" else "main.c")
        text.write_text(source)
        made = Path(place, "program")
        argv = [compiler, "-static", "-O1", "-o", str(made), str(text)]
        if compiler == "go":
            argv = ["go", "build", "-tags", "netgo", "-o", str(made), str(text)]
        settings = {"CGO_ENABLED": "0", "GOCACHE": f"{place}/cache", "GOPATH": f"{place}/path", "GO111MODULE": "off"}
        settings |= {"GOTOOLCHAIN": "local", "GOPROXY": "off"}  # what is not here is not fetched
        subprocess.run(argv, env=os.environ | settings, check=True, timeout=BUILD_S)
        made.rename(program)
    return str(program)


@contextmanager
def open_gate_stage(bed: Bed) -> Iterator[GateStage]:
    """The stage on the session's bed."""
    names = ("v4.shop.test", "v6.shop.test", "one.evil.test", "two.evil.test", "three.evil.test")
    shop = bed.add("gate-shop", Tls(names=names), Tcp(7))
    zone: Zone = {
        "v4.shop.test": {"A": [shop.address4]},
        "v6.shop.test": {"AAAA": [shop.address6]},
        "evil.test": {"A": [shop.address4], "AAAA": [shop.address6], "TXT": ['"secret"']},
        "*.evil.test": {"A": [shop.address4], "AAAA": [shop.address6]},
        "shop.test": {"A": [shop.address4], "MX": ["10 mail.else.test."], "TXT": ['"open"'], "ttl": 60},
        "_imaps._tcp.shop.test": {"SRV": ["0 0 7 mail.else.test."]},
        "mail.else.test": {"A": [shop.address4]},
        LARGE: {"A": [f"203.0.113.{100 + number}" for number in range(LARGE_COUNT)]},
    }
    container = Namespace()
    try:
        container.sysctl("net.ipv6.conf.default.accept_dad", 0)
        lay_line(container, bed.network.hosts, "container", ("198.51.100.128/30", "2001:db8:3::/64"))
        with tempfile.TemporaryDirectory(prefix="exeat-gate-") as place:
            Path(place).chmod(0o755)
            yield GateStage(bed, shop, fresh_resolver(bed, zone), container, Path(place), make_clients())
    finally:
        container.close()
