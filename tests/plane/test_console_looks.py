"""What ships with the console: the files of others unchanged, and colours that can be read. And its pure parts."""

import hashlib
import re
from pathlib import Path

import pytest

from exeat.model.verdicts import Reason, Verdict
from exeat.plane.verdicts.denials import Denial
from exeat.plane.visible import visible
from exeat.plane.web.assets import STATIC
from exeat.plane.web.attempts import TRIES, WINDOW_S, Attempts
from exeat.plane.web.denial_groups import grouped
from exeat.plane.web.forms import local_path
from exeat.plane.web.listing import SHOWN_MAX, has_words, listing
from exeat.plane.web.rendering import breakable, link
from exeat.plane.web.sealing import Seal
from exeat.plane.web.wording import clock, count, distance, moment, several, span

CSS = (STATIC / "console.css").read_text()
S = 1_000_000_000
# What is read on what: WCAG 2.2 wants 4.5 for words, 3 for the edges of what is pressed or filled in.
WORDS = (
    ("ink", "ground"), ("ink", "paper"), ("ink", "sunken"), ("ink", "hover"),
    ("soft", "ground"), ("soft", "paper"), ("soft", "sunken"), ("soft", "hover"),
    ("accent", "ground"), ("accent", "paper"), ("accent", "accent-soft"), ("accent", "hover"), ("accent-ink", "accent"),
    ("ok", "paper"), ("ok", "ok-soft"), ("warn", "paper"), ("warn", "warn-soft"), ("warn", "hover"),
    ("bad", "paper"), ("bad", "bad-soft"), ("bad", "hover"), ("bad-ink", "bad"),
)  # fmt: skip
EDGES = (("line-strong", "paper"), ("line-strong", "ground"), ("accent", "paper"), ("accent", "ground"))


def test_what_others_wrote_is_as_they_released_it() -> None:
    """The table in the folder says which versions; their licences lie beside them."""
    rows = re.findall(r"\| `([a-z-]+\.min\.js)` \|.*`([a-z-]+\.LICENSE\.txt)`.*`([0-9a-f]{64})` \|", _readme())
    assert [name for name, _, _ in rows] == ["htmx.min.js", "htmx-ext-sse.min.js"]
    for name, licence, digest in rows:
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest, name
        assert "Zero" in (STATIC / licence).read_text()


def test_nothing_else_is_served() -> None:
    """Ours, theirs, and what tells where they are from."""
    ours = {"console.css", "console.js", "icon.svg", "README.md"}
    theirs = {"htmx.min.js", "htmx-ext-sse.min.js", "htmx.LICENSE.txt", "htmx-ext-sse.LICENSE.txt"}
    assert {path.name for path in STATIC.iterdir()} == ours | theirs


def test_nothing_is_loaded_from_elsewhere() -> None:
    """The plane works where no internet is."""
    templates = Path(STATIC).parent / "templates"
    for path in (STATIC / "console.css", STATIC / "console.js", *templates.iterdir()):
        text = path.read_text()
        assert "//" not in re.sub(r"(?m)(^|\s)//.*$", "", text).replace("/* ", ""), path
        assert "@import" not in text
        assert "url(" not in text or path.suffix != ".css", path


@pytest.mark.parametrize("theme", ["light", "dark", "system's dark"])
def test_every_colour_can_be_read_on_its_ground(theme: str) -> None:
    """4.5 to 1 for words, 3 to 1 for edges."""
    colours = _colours(theme)
    for fore, ground in WORDS:
        assert _contrast(colours[fore], colours[ground]) >= 4.5, (fore, ground)
    for fore, ground in EDGES:
        assert _contrast(colours[fore], colours[ground]) >= 3, (fore, ground)


def test_the_two_darks_are_one() -> None:
    """What somebody chose, and what their system has."""
    assert _colours("dark") == _colours("system's dark")
    assert _colours("dark").keys() == _colours("light").keys() - {"sans", "mono", "shadow"}


def test_no_colour_stands_elsewhere() -> None:
    """Or one of the themes would forget it."""
    rules = CSS[CSS.index("/* Ground */") :]
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\(", rules)
    assert set(re.findall(r"var\(--([a-z-]+)", rules)) <= _colours("light").keys() | {"sans", "mono", "shadow", "dot"}


def test_a_path_of_ours_is_no_other_site() -> None:
    """Where a form leads on to."""
    for good in ("/", "/nodes?q=a%20b", "/workloads/one?node=a&workload=b"):
        assert local_path(good, "/home") == good
    for bad in ("", "nodes", "//evil.test", "/\\evil.test", "https://evil.test/", "/a\nb", "/\t/evil.test"):
        assert local_path(bad, "/home") == "/home"


def test_spans_and_distances_say_what_matters() -> None:
    """The largest part, and the next one where it says much."""
    texts = {0: "0s", 59: "59s", 61: "1m 1s", 600: "10m", 3600: "1h", 3660: "1h 1m", 90_000: "1d 1h", 864_059: "10d"}
    assert {seconds: span(seconds) for seconds in texts} == texts
    assert distance(0, S) == "never"
    assert distance(5 * S, 5 * S) == "just now"
    assert distance(5 * S, 70 * S) == "1m 5s ago"
    assert distance(70 * S, 5 * S) == "in 1m 5s"


def test_moments_are_utc_and_never_fail() -> None:
    """Whatever an agent's clock says."""
    day = 1_800_000_000 * S
    assert moment(day) == "2027-01-15 08:00:00 UTC"
    assert clock(day + 5_000_000, day) == "08:00:00.005"
    assert clock(day, day + 86_400 * S) == "01-15 08:00:00"
    assert moment(2**63 - 1)
    assert moment(-1)


def test_counts_and_names_are_written_for_people() -> None:
    """And unable to move anything."""
    assert count(1234567) == "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}567"
    assert (several(1, "node"), several(2, "node")) == ("1 node", "2 nodes")
    assert visible("a\x1b[2J\u202eb") == "a\\x1b[2J\\u202eb"
    assert visible(count(1234)) == count(1234)  # a template says it as it is
    assert breakable("/a_b<c>") == "/<wbr>a_<wbr>b&lt;c&gt;"
    assert link("/x", q="a b&c", empty="", none=None) == "/x?q=a+b%26c"


def test_a_seal_is_for_one_purpose_and_one_text() -> None:
    """Under one key."""
    seal, other = Seal(b"key"), Seal(b"other")
    sealed = seal.closed("said", "wörds \ud800")
    assert seal.opened("said", sealed) == "wörds \ud800"
    assert seal.opened("session", sealed) is None
    assert other.opened("said", sealed) is None
    for broken in ("", ".", "x", sealed[:-1], sealed + "0", "!" + sealed, "é.é"):
        assert seal.opened("said", broken) is None


def test_attempts_are_counted_for_a_time_by_place() -> None:
    """An IPv6 host has a whole network to come from; memory has an end."""
    attempts = Attempts()
    for _ in range(TRIES):
        assert attempts.wait_s("2001:db8::1", 100.0) == 0
        attempts.fail("2001:db8::1", 100.0)
    assert attempts.wait_s("2001:db8::ffff", 101.0) == WINDOW_S - 1
    assert attempts.wait_s("2001:db8:0:1::1", 101.0) == 0
    assert attempts.wait_s("2001:db8::1", 100.0 + WINDOW_S) == 0
    for number in range(10_000):
        attempts.fail(f"10.0.{number >> 8}.{number & 255}", 500.0)
    assert len(attempts._failed) <= 4096


def test_a_listing_is_sorted_as_asked_and_cut() -> None:
    """What cannot be meant sorts as usual."""
    keys = {"size": lambda number: number}
    assert listing([2, 3, 1], "-size", keys, "size").rows == [3, 2, 1]
    assert listing([2, 3, 1], "colour", keys, "size").rows == [1, 2, 3]
    many = listing(range(SHOWN_MAX + 7), "size", keys, "size")
    assert (len(many.rows), many.total, many.left_out) == (SHOWN_MAX, SHOWN_MAX + 7, 7)
    assert has_words("Box EU", "sandbox-1", "zone=eu-1")
    assert not has_words("box us", "sandbox-1", "zone=eu-1")


def test_denials_of_one_destination_are_one_group_however_it_was_tried() -> None:
    """And a reason that is not known yet stands as its number."""
    name, raw = "a.example", Reason.RAW_SOCKET
    found = grouped(
        (
            _denial(name, "query", 53, 17, Reason.NAME_NOT_ALLOWED, ("n1", "n2")),
            _denial(name, "hello", 443, 6, Reason.NAME_NOT_ALLOWED, ("n2", "n3")),
            _denial(name, "hello", 443, 6, 60_000, ("n3",)),
            _denial("", "socket", 0, 255, raw, ("n1",)),
        )
    )
    assert [group.target for group in found] == [name, ""]
    tried, socket = found
    assert (tried.count, tried.nodes, tried.node_count) == (15, ("n1", "n2", "n3"), 3)
    assert tried.ways == ("443/tcp", "dns")
    assert [word for word, _ in tried.reasons] == ["name_not_allowed", "reason 60000"]
    assert (tried.can_approve, socket.can_approve) == (True, False)


def _denial(target: str, hook: str, port: int, protocol: int, reason: int, nodes: tuple[str, ...]) -> Denial:
    where = (target, port, protocol, hook, int(Verdict.DROPPED), int(reason))
    return Denial("/w", "p", *where, nodes=nodes, node_count=len(nodes), count=5, first_ns=1, last_ns=2)


def _readme() -> str:
    return (STATIC / "README.md").read_text()


def _colours(theme: str) -> dict[str, str]:
    starts = {"light": ":root {", "dark": ':root[data-theme="dark"] {', "system's dark": ":root:not([data-theme]) {"}
    body = CSS.partition(starts[theme])[2].partition("}")[0]
    found: dict[str, str] = dict(re.findall(r"--([a-z-]+): ([^;]+);", body))
    return found if theme == "light" else {name: text for name, text in found.items() if name != "shadow"}


def _contrast(one: str, other: str) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
