"""Live verdicts over a real door: what comes after the page was made, once, filtered, as long as one may look."""

import html
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest

from exeat.model.verdicts import Reason, Verdict
from exeat.plane import people
from exeat.plane.parts import Plane
from plane.console_fixtures import tokens
from plane.console_stage import Tokens, denial, open_plane, report, serving
from plane.console_visitor import Visitor, visiting, words

__all__ = ["tokens"]

_STREAM = re.compile(r'sse-connect="([^"]+)"')


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    """Without a fleet, but for who reports."""
    with open_plane(tmp_path) as plane:
        yield plane


@pytest.fixture
def vera(plane: Plane, tokens: Tokens) -> Iterator[Visitor]:
    """A viewer."""
    with serving(plane) as address, visiting(address, tokens.viewer) as visitor:
        yield visitor


class Followed:
    """Events of a stream, read in the background of the test's own reading."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.iter_lines()

    def until(self, sought: str) -> str:
        """What came, up to the event with these words in it."""
        event: list[str] = []
        seen: list[str] = []
        for line in self._lines:
            if line:
                event.append(line)
                continue
            text = "\n".join(event)
            seen.append(text)
            event = []
            if sought in text:
                return "\n\n".join(seen)
        raise AssertionError(f"the stream has ended without {sought!r}: {seen}")


@contextmanager
def following(visitor: Visitor, path: str = "/verdicts") -> Iterator[Followed]:
    """As the page's script does."""
    found = _STREAM.search(visitor.page(path))
    assert found
    with visitor.client.stream("GET", html.unescape(found[1])) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield Followed(answer)


def soon(plane: Plane, *names: str, **said: object) -> threading.Thread:
    """Reports denials of these names, in a thread: whoever reads the stream waits for them."""
    records = [denial(name=name, **said) for name in names]
    thread = threading.Thread(target=report, args=(plane.database, "sandbox-01", records))
    thread.start()
    return thread


def test_a_verdict_comes_as_it_falls(plane: Plane, vera: Visitor) -> None:
    """As a row of the page's own table, with its name escaped."""
    with following(vera) as stream:
        thread = soon(plane, "live.example", "<b>bold</b>.example")
        events = stream.until("live.example")
        thread.join()
    assert "event: rows" in events
    assert re.search(r"^id: \d+$", events, re.MULTILINE)
    assert 'data: <tr role="row" class="denied">' in events
    assert "&lt;b&gt;bold&lt;/b&gt;.example" in events
    assert "<b>" not in events


def test_what_fell_between_the_page_and_the_stream_is_not_missed(plane: Plane, vera: Visitor) -> None:
    """Nor told twice; a stream that broke off goes on where it was."""
    report(plane.database, "sandbox-01", [denial(name="before.example")])
    page = vera.page("/verdicts")
    assert "before.example" in words(page)
    found = _STREAM.search(page)
    assert found
    report(plane.database, "sandbox-01", [denial(name="between.example")])
    path = html.unescape(found[1])
    with vera.client.stream("GET", path) as answer:
        events = Followed(answer).until("between.example")
        assert "before.example" not in events
        number = re.findall(r"^id: (\d+)$", events, re.MULTILINE)[-1]
    report(plane.database, "sandbox-01", [denial(name="meanwhile.example")])
    with vera.client.stream("GET", path, headers={"last-event-id": number}) as answer:
        events = Followed(answer).until("meanwhile.example")
        assert "between.example" not in events


def test_the_stream_is_filtered_as_the_page_is(plane: Plane, vera: Visitor) -> None:
    """By destination and outcome."""
    with following(vera, "/verdicts?to=.wanted.example&verdict=denied") as stream:
        allowed = {"verdict": Verdict.FORWARDED, "reason": Reason.NAME_ALLOWED}
        first = soon(plane, "a.wanted.example", **allowed)
        first.join()
        second = soon(plane, "other.example", "b.wanted.example")
        events = stream.until("b.wanted.example")
        second.join()
    assert "a.wanted.example" not in events
    assert "other.example" not in events


def test_more_than_anybody_can_read_is_counted(plane: Plane, vera: Visitor) -> None:
    """The newest are shown, and how many are not."""
    with following(vera) as stream:
        thread = soon(plane, *(f"n{number}.example" for number in range(150)))
        events = stream.until("n149.example")
        thread.join()
    shown = len(re.findall(r"n\d+\.example</span>", events))
    (hidden,) = re.findall(r"(\d+) more, not shown here", events)
    assert shown == 50
    assert shown + int(hidden) == 150


def test_whoever_does_not_see_the_table_is_told_how_much_comes(plane: Plane, vera: Visitor) -> None:
    """Every five seconds, if anything did."""
    with following(vera) as stream:
        thread = soon(plane, "a.example", "b.example")
        events = stream.until("event: summary")
        thread.join()
    assert re.search(r"^data: 2 verdicts in \d+ s, 2 denied$", events, re.MULTILINE)


def test_the_stream_ends_with_the_session(plane: Plane, vera: Visitor) -> None:
    """A page that stays open sees nothing more once its token is gone."""
    with following(vera) as stream:
        soon(plane, "first.example").join()
        stream.until("first.example")
        with plane.database.writing() as tx:
            people.remove(tx, "vera")
        soon(plane, "second.example").join()
        with pytest.raises(AssertionError, match="the stream has ended"):
            stream.until("third.example")
    assert vera.get("/verdicts/stream", accept="text/event-stream").status_code == 204  # and do not come back


def test_older_verdicts_are_a_link_away(plane: Plane, vera: Visitor) -> None:
    """Page by page, without one missing, and without a stream."""
    report(plane.database, "sandbox-01", [denial(name=f"n{number}.example") for number in range(120)])
    seen: list[str] = []
    path = "/verdicts"
    for _ in range(3):
        page = vera.page(path)
        seen += re.findall(r'title="(n\d+\.example)"', page)
        older = re.search(r'<a href="([^"]+)">Older ones', page)
        path = html.unescape(older[1]) if older else ""
    assert path == ""
    assert sorted(seen) == sorted(f"n{number}.example" for number in range(120))
    assert "sse-connect" not in page
    assert vera.get("/verdicts?before=x").status_code == 400


def test_what_was_denied_without_a_name_or_an_address_is_shown_too(plane: Plane, vera: Visitor) -> None:
    """A socket, an option, a question, an address."""
    records = [
        denial(hook="socket", name=None, address=None, port=0, protocol=255, reason=Reason.RAW_SOCKET),
        denial(hook="option", name=None, address=None, port=0, reason=Reason.SOCKET_OPTION, detail=6 << 16 | 31),
        denial(hook="query", name="q.example", port=53, protocol=17, detail=28),
        denial(hook="connect", name=None, address=ip_address("2001:db8::7"), port=443, reason=Reason.NOT_RESOLVED),
    ]
    report(plane.database, "sandbox-01", records)
    page = words(vera.page("/verdicts"))
    for text in ("a socket of protocol raw", "socket option 31 of TCP", "q.example dns AAAA", "[2001:db8::7]:443 tcp"):
        assert text in page, text
