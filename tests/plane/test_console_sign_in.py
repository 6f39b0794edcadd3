"""Who gets into the console, as what, for how long; and what a browser is told about its cookie."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import httpx
import pytest

from exeat.plane import people
from exeat.plane.parts import Plane
from exeat.plane.settings import Oidc, WebDoor
from exeat.plane.web import sessions
from exeat.plane.web.attempts import TRIES
from exeat.plane.web.sealing import seal_of
from plane.console_fixtures import address, tokens
from plane.console_stage import S, Tokens, make_tokens, open_plane, serving
from plane.console_visitor import SAME_ORIGIN, visiting, words

__all__ = ["address", "tokens"]

OIDC = Oidc(
    user_header="X-Auth-User",
    groups_header="X-Auth-Groups",
    trusted_proxies=(ip_network("127.0.0.2/32"),),
    viewer_groups=("staff",),
    approver_groups=("sre",),
    admin_groups=("plane-admins",),
)


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    """Without a fleet."""
    with open_plane(tmp_path) as plane:
        yield plane


@contextmanager
def door(place: Path, web: WebDoor) -> Iterator[str]:
    """Another plane's, with these settings."""
    place.mkdir()
    with open_plane(place, web) as plane, serving(plane) as address:
        yield address


def cookie_of(answer: httpx.Response) -> str:
    """The line that sets the session's cookie."""
    return next(line for line in answer.headers.get_list("set-cookie") if "exeat" in line and "Max-Age=43200" in line)


def test_whoever_is_not_signed_in_is_sent_to_sign_in_and_then_back(address: str, tokens: Tokens) -> None:
    """With the whole address, filter and all."""
    with visiting(address) as visitor:
        away = visitor.get("/denials?workload=coder&since=7d")
        assert (away.status_code, away.headers["location"]) == (
            303,
            "/sign-in?next=%2Fdenials%3Fworkload%3Dcoder%26since%3D7d",
        )
        form = visitor.page(away.headers["location"])
        assert 'name="next" value="/denials?workload=coder&amp;since=7d"' in form
        fields = {"token": tokens.viewer, "next": "/denials?workload=coder&since=7d"}
        back = visitor.client.post("/sign-in", data=fields, headers=SAME_ORIGIN)
        assert (back.status_code, back.headers["location"]) == (303, "/denials?workload=coder&since=7d")
        assert "Denials" in visitor.page(back.headers["location"])


@pytest.mark.parametrize("next_", ["https://evil.test/", "//evil.test/", "/\\evil.test", "javascript:alert(1)", ""])
def test_signing_in_leads_to_no_other_site(address: str, tokens: Tokens, next_: str) -> None:
    """Whoever made the link."""
    with visiting(address) as visitor:
        answer = visitor.client.post("/sign-in", data={"token": tokens.viewer, "next": next_}, headers=SAME_ORIGIN)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert "evil" not in visitor.client.get("/sign-in", params={"next": next_}).text


def test_a_wrong_token_signs_nobody_in(address: str, tokens: Tokens) -> None:
    """Nor does none; the right one does."""
    with visiting(address) as visitor:
        for token in ("", "exeat_nonsense", tokens.viewer[:-1], tokens.viewer.upper()):
            answer = visitor.sign_in(token)
            assert answer.status_code == 401, token
            assert "this token is unknown" in words(answer.text)
            assert visitor.get("/nodes").status_code == 303
        assert visitor.sign_in(f" {tokens.viewer}\n").status_code == 303  # as it is pasted
        assert visitor.get("/nodes").status_code == 200


def test_the_cookie_is_for_this_host_and_its_pages_only(tmp_path: Path, address: str, tokens: Tokens) -> None:
    """By TLS it is a `__Host-` cookie, which needs Secure; plain loopback has no TLS."""
    with visiting(address) as visitor:
        plain = cookie_of(visitor.sign_in(tokens.viewer))
        assert plain.startswith("exeat=")
        assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(plain.split("; "))
        assert "Secure" not in plain
        assert tokens.viewer not in plain
    (tmp_path / "tls").mkdir()
    web = WebDoor(is_behind_proxy=True, url="https://console.example")
    with open_plane(tmp_path / "tls", web) as plane, serving(plane) as there, visiting(there) as visitor:
        answer = visitor.sign_in(make_tokens(plane.database, plane.now_ns()).viewer)
        secure = cookie_of(answer)
        assert secure.startswith("__Host-exeat=")
        assert {"HttpOnly", "Path=/", "SameSite=strict", "Secure"} <= set(secure.split("; "))
        assert "Domain" not in secure
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
    with visiting(address) as visitor:
        assert "strict-transport-security" not in visitor.get("/sign-in").headers


def test_a_session_ends_with_its_token(plane: Plane, address: str, tokens: Tokens) -> None:
    """At once; another token of the same name does not bring it back."""
    with visiting(address, tokens.approver) as ada, visiting(address, tokens.viewer) as vera:
        assert ada.get("/nodes").status_code == vera.get("/nodes").status_code == 200
        with plane.database.writing() as tx:
            people.remove(tx, "ada")
            people.add(tx, people.TokenWish("ada", people.Role.ADMIN), plane.now_ns())
        assert ada.get("/nodes").status_code == 303
        assert vera.get("/nodes").status_code == 200


def test_a_session_ends_after_twelve_hours(tmp_path: Path) -> None:
    """By the plane's clock, whatever the browser keeps."""
    now = [1_800_000_000 * S]
    with open_plane(tmp_path) as opened:
        plane = replace(opened, now_ns=lambda: now[0])
        tokens = make_tokens(plane.database, now[0])
        with serving(plane) as address, visiting(address, tokens.viewer) as vera:
            now[0] += sessions.LIFE_S * S - S
            assert vera.get("/nodes").status_code == 200
            now[0] += S
            assert vera.get("/nodes").status_code == 303


def test_signing_out_ends_the_session_and_not_only_the_cookie(address: str, tokens: Tokens) -> None:
    """Whoever copied it has nothing; the same person's other session goes on."""
    with visiting(address, tokens.viewer) as here, visiting(address, tokens.viewer) as elsewhere:
        copied = dict(here.client.cookies)
        here.page("/nodes")
        assert here.post("/sign-out").headers["location"] == "/sign-in"
        assert here.get("/nodes").status_code == 303
        here.client.cookies.update(copied)
        assert here.get("/nodes").status_code == 303
        assert elsewhere.get("/nodes").status_code == 200


def test_a_cookie_that_was_changed_is_nobodys(plane: Plane, address: str, tokens: Tokens) -> None:
    """Each part of it, and one that another store has sealed."""
    with visiting(address, tokens.viewer) as visitor:
        cookie = visitor.client.cookies["exeat"]
        body, _, mac = cookie.rpartition(".")
        with plane.database.writing() as tx:
            seal = seal_of(tx)
        root = json.loads(seal.opened("session", cookie) or "")
        root[2] = "root"
        other = type(seal)(b"another key")
        forged = [
            f"{body}x.{mac}",
            f"{body}.{mac[:-1]}{'0' if mac[-1] != '0' else '1'}",
            mac,
            body,
            ".",
            "\xff.\xfe",
            other.closed("session", json.dumps(root)),
            seal.closed("said", json.dumps(root)),
        ]
        for text in forged:
            header = b"exeat=" + text.encode("latin-1")
            visitor.client.cookies.clear()
            assert visitor.client.get("/nodes", headers=[(b"cookie", header)]).status_code == 303, text
        assert visitor.client.get("/nodes", headers={"cookie": f"exeat={cookie}"}).status_code == 200


def test_attempts_are_limited_where_they_come_from(address: str, tokens: Tokens) -> None:
    """And nowhere else: nobody can lock out another."""
    with visiting(address, source="127.0.0.3") as stranger, visiting(address) as visitor:
        for _ in range(TRIES):
            assert stranger.sign_in("exeat_guess").status_code == 401
        answer = stranger.sign_in(tokens.admin)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0
        assert visitor.sign_in(tokens.admin).status_code == 303


def test_a_sign_in_that_another_site_posts_signs_nobody_in(address: str, tokens: Tokens) -> None:
    """Or a victim would work under the attacker's name. Old browsers say `Origin` instead."""
    for headers, status in (
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "none"}, 403),
        ({}, 403),
        ({"origin": "https://evil.test"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": address}, 303),
        ({"sec-fetch-site": "same-origin"}, 303),
    ):
        with visiting(address) as visitor:
            answer = visitor.client.post("/sign-in", data={"token": tokens.viewer}, headers=headers)
            assert answer.status_code == status, headers


def test_a_link_from_another_site_finds_the_session_by_a_step_on_our_own(address: str, tokens: Tokens) -> None:
    """SameSite=Strict keeps the cookie back on the first request; the page that answers it leads on to itself."""
    with visiting(address, tokens.viewer) as visitor:
        cookies = dict(visitor.client.cookies)
        visitor.client.cookies.clear()
        step = visitor.get("/nodes?q=%22%3E%3Cb", sec_fetch_site="cross-site", sec_fetch_mode="navigate")
        assert step.status_code == 200
        assert 'http-equiv="refresh" content="0; url=/nodes?q=%22%3E%3Cb"' in step.text
        visitor.client.cookies.update(cookies)
        assert visitor.get("/nodes", sec_fetch_site="same-origin", sec_fetch_mode="navigate").status_code == 200


def test_a_proxy_says_who_it_is_and_what_they_may_do(tmp_path: Path) -> None:
    """By the group that may do most."""
    with door(tmp_path / "oidc", WebDoor(oidc=OIDC)) as address, visiting(address, source="127.0.0.2") as proxy:
        for groups, role in (("staff", "viewer"), ("staff,sre", "approver"), ("plane-admins, staff", "admin")):
            page = proxy.get("/nodes", x_auth_user="grace@example.com", x_auth_groups=groups).text
            assert "grace@example.com" in page
            assert f"{role} · by your proxy" in page
            assert "Sign out" not in page


@pytest.mark.parametrize(
    "headers",
    [
        {"x_auth_user": "grace", "x_auth_groups": "cooks"},
        {"x_auth_user": "grace"},
        {"x_auth_user": "", "x_auth_groups": "sre"},
        {"x_auth_groups": "sre"},
        {},
    ],
)
def test_whom_the_proxy_gives_no_group_of_ours_is_nobody(tmp_path: Path, headers: dict[str, str]) -> None:
    """The twin is above."""
    with door(tmp_path / "oidc", WebDoor(oidc=OIDC)) as address, visiting(address, source="127.0.0.2") as proxy:
        assert proxy.get("/nodes", **headers).status_code == 303


def test_the_headers_of_anybody_but_the_proxy_are_not_believed(tmp_path: Path) -> None:
    """From the same machine by another address, or where no proxy is configured at all."""
    said = {"x_auth_user": "mallory", "x_auth_groups": "plane-admins"}
    with door(tmp_path / "oidc", WebDoor(oidc=OIDC)) as address:
        with visiting(address, source="127.0.0.2") as proxy:
            assert proxy.get("/nodes", **said).status_code == 200
        with visiting(address, source="127.0.0.1") as stranger:
            assert stranger.get("/nodes", **said).status_code == 303
            assert stranger.get("/nodes", x_forwarded_for="127.0.0.2", **said).status_code == 303
    with door(tmp_path / "none", WebDoor()) as address, visiting(address, source="127.0.0.2") as stranger:
        assert stranger.get("/nodes", **said).status_code == 303


def test_a_header_that_stands_twice_is_not_believed(tmp_path: Path) -> None:
    """One of the two is the browser's own, which the proxy let through."""
    with door(tmp_path / "oidc", WebDoor(oidc=OIDC)) as address, visiting(address, source="127.0.0.2") as proxy:
        once = [("x-auth-user", "grace"), ("x-auth-groups", "staff")]
        assert proxy.client.get("/nodes", headers=once).status_code == 200
        assert proxy.client.get("/nodes", headers=[*once, ("x-auth-groups", "plane-admins")]).status_code == 303
        assert proxy.client.get("/nodes", headers=[*once, ("x-auth-user", "root")]).status_code == 303


def test_the_proxys_word_counts_under_the_consoles_own_name_only(tmp_path: Path) -> None:
    """Under another name a page of another site could be talking to us, by its own name server's word."""
    web = WebDoor(oidc=OIDC, is_behind_proxy=True, url="https://console.example")
    with door(tmp_path / "oidc", web) as address, visiting(address, source="127.0.0.2") as proxy:
        said = {"x_auth_user": "grace", "x_auth_groups": "staff"}
        assert proxy.get("/nodes", host="console.example", **said).status_code == 200
        assert proxy.get("/nodes", host="evil.test", **said).status_code == 303


def test_the_theme_is_kept_in_a_cookie_and_stands_in_the_page(address: str) -> None:
    """Nobody need be signed in to read in the dark."""
    with visiting(address) as visitor:
        assert "data-theme" not in visitor.page("/sign-in")
        answer = visitor.client.post("/theme", data={"theme": "dark", "here": "/sign-in"}, headers=SAME_ORIGIN)
        assert answer.headers["location"] == "/sign-in"
        assert '<html lang="en" data-theme="dark">' in visitor.page("/sign-in")
        visitor.client.post("/theme", data={"theme": '"><script>', "here": "//evil.test"}, headers=SAME_ORIGIN)
        assert "data-theme" not in visitor.page("/sign-in")


def test_the_api_takes_no_cookie(address: str, tokens: Tokens) -> None:
    """That is why it needs no token against forged forms."""
    with visiting(address, tokens.admin) as visitor:
        assert visitor.get("/nodes").status_code == 200
        assert visitor.get("/api/v1/nodes").status_code == 401
        assert visitor.get("/api/v1/nodes", authorization=f"Bearer {tokens.admin}").status_code == 200


def test_health_needs_nobody_to_be_signed_in(address: str) -> None:
    """Those who ask have no cookies; pages do need it."""
    with visiting(address) as visitor:
        assert visitor.get("/healthz").status_code == 200
        assert visitor.get("/nodes").status_code == 303


def test_a_form_that_is_too_large_is_refused(address: str) -> None:
    """Before it is read to its end."""
    with visiting(address) as visitor:
        answer = visitor.sign_in("x" * 70_000)
        assert answer.status_code == 400
        assert "at most 65536 bytes" in words(answer.text)
        assert visitor.sign_in("x" * 6_000).status_code == 401
