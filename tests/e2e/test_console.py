"""The console in headless Chromium, over a real door: with a mouse, by the keyboard alone, without scripts, light and
dark, on a wide and a narrow screen. No page may say anything on the browser's console."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from exeat.plane import people
from exeat.plane.parts import Plane
from exeat.plane.policies import policies
from plane.console_fixtures import address, plane, tokens
from plane.console_stage import Tokens, denial, report

__all__ = ["address", "plane", "tokens"]

CHROMIUM = Path("/usr/bin/chromium")
# axe-core is not shipped and not needed to build: whoever has it says where. The other tests look at much of the same.
AXE = os.environ.get("EXEAT_AXE", "")
REFRESHED = 15_000  # milliseconds: some refreshes
WIDE, NARROW, NARROWEST = (1280, 860), (390, 844), (320, 640)
APPROVE = "/denials/approve?target=huggingface.example&workload=/agents.slice/coder-12.scope&policies=coding-agent"
PATHS = (
    "/nodes", "/nodes/sandbox-03", "/workloads", "/workloads/one?node=sandbox-01&workload=coder-9", "/verdicts",
    "/denials", APPROVE, "/policies", "/policies/coding-agent", "/rollouts", "/report",
)  # fmt: skip
# Chromium lets the keyboard scroll whatever scrolls; axe does not know.
RUN_AXE = "axe.run().then((found) => found.violations)"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
FOCUSED = """((one) => (one.labels && one.labels.length ? one.labels[0] : one).textContent.trim())(
  document.activeElement)"""
NAMELESS = """[...document.querySelectorAll("a, button, input:not([type=hidden]), select, summary")].filter((one) =>
  !(one.textContent.trim() || one.ariaLabel || (one.labels && one.labels.length))).map((one) => one.outerHTML)"""

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no /usr/bin/chromium: apt install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests; each has a profile of its own."""
    expect.set_options(timeout=10_000)  # others have the machine as well
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, address: str, size: tuple[int, int] = WIDE, known: str = "net::ERR_ABORTED", **how: object
) -> Iterator[Page]:
    """A page in a profile of its own. Fails if the browser had anything to complain of but what is known.

    A stream that is still open when the page goes is broken off by the browser itself.
    """
    viewport = {"width": size[0], "height": size[1]}
    context = browser.new_context(base_url=address, viewport=viewport, **how)  # type: ignore[arg-type]
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"{request.url}: {request.failure}"))
    page.set_default_timeout(10_000)
    try:
        yield page
    finally:
        context.close()
    assert [one for one in complaints if not re.search(known, one)] == []


def sign_in(page: Page, token: str) -> None:
    """By the form."""
    page.goto("/sign-in")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1, name="Nodes")).to_be_visible()
    page.wait_for_load_state()  # and its scripts


def revision_of(plane: Plane, name: str) -> str:
    """That shall hold."""
    with plane.database.reading() as tx:
        return next(one.revision for one in policies.current(tx) if one.name == name)


def tab_to(page: Page, name: str) -> None:
    """Moves the focus, which must be seen at each step, to what is called so."""
    page.wait_for_load_state()  # a page that still loads takes no keys
    for _ in range(80):
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        if page.evaluate(FOCUSED) == name:
            return
    raise AssertionError(f"{name!r} cannot be reached by the keyboard")


def test_a_denial_appears_live_and_is_approved(plane: Plane, tokens: Tokens, address: str, browser: Browser) -> None:
    """It falls, the row comes by itself; preview, form, confirmation; the policy has a new revision."""
    before = revision_of(plane, "coding-agent")
    with opened(browser, address) as page:
        sign_in(page, tokens.approver)
        page.get_by_role("navigation", name="Pages").get_by_role("link", name="Live").click()
        expect(page.locator("#live-state")).to_have_text("Live")
        report(plane.database, "sandbox-02", [denial(name="new.vendor.example")])
        row = page.get_by_role("row").filter(has_text="new.vendor.example")
        expect(row).to_contain_text("name_not_allowed")
        expect(page.get_by_role("status").filter(has_text="verdict in")).to_contain_text("1 denied", timeout=10_000)
        row.get_by_role("link", name="Approve").click()
        expect(page.get_by_text("new.vendor.example:443 (tls) by rule approved-new-vendor-example-443")).to_be_visible()
        page.get_by_label("Ends after").select_option("7 days")
        page.get_by_label("Reason").fill("TICKET-7: the vendor's new host")
        page.get_by_label("Reason").blur()
        expect(page.locator(".diff .add").first).to_contain_text("TICKET-7: the vendor's new host")  # previewed again
        assert revision_of(plane, "coding-agent") == before
        page.get_by_role("button", name="Approve for every node").click()
        expect(page.get_by_role("status")).to_contain_text(
            "rule approved-new-vendor-example-443 is in coding-agent now"
        )
        expect(page.get_by_role("table", name="Rules")).to_contain_text("new.vendor.example")
        expect(page.get_by_role("table", name="History")).to_contain_text("TICKET-7: the vendor's new host")
        assert "csrf" not in page.url
    after = revision_of(plane, "coding-agent")
    assert after != before
    with plane.database.reading() as tx:
        assert "new.vendor.example" in policies.document(tx, after)


def test_a_denial_is_approved_by_the_keyboard_alone(
    plane: Plane, tokens: Tokens, address: str, browser: Browser
) -> None:
    """From signing in to the rule, with a visible focus all the way."""
    before = revision_of(plane, "coding-agent")
    with opened(browser, address) as page:
        page.goto("/sign-in?next=/denials%3Fto%3Dhuggingface.example")
        expect(page.get_by_label("Token")).to_be_focused()
        page.keyboard.type(tokens.approver)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1, name="Denials")).to_be_visible()
        tab_to(page, "Skip to content")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        tab_to(page, "Approve… huggingface.example for /agents.slice/coder-12.scope")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Approve huggingface.example")
        tab_to(page, "Reason")
        page.keyboard.type("model weights")
        page.keyboard.press("Enter")  # asks for a preview, and approves nothing
        expect(page.locator(".diff .add").first).to_contain_text("model weights")
        assert revision_of(plane, "coding-agent") == before
        tab_to(page, "Approve for every node")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("is in coding-agent now")
    assert revision_of(plane, "coding-agent") != before


def test_all_of_it_works_without_scripts(plane: Plane, tokens: Tokens, address: str, browser: Browser) -> None:
    """Filter, sort, theme, approve."""
    with opened(browser, address, java_script_enabled=False) as page:
        sign_in(page, tokens.approver)
        page.goto("/denials")
        page.get_by_label("Destination").fill("huggingface.example")
        page.get_by_role("button", name="Filter").click()
        expect(page.get_by_role("row")).to_have_count(2)
        page.get_by_role("link", name="Times").click()
        assert "sort=-count" in page.url
        assert "to=huggingface.example" in page.url
        page.get_by_role("button", name="Dark").click()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        page.get_by_role("link", name="Approve").click()
        page.get_by_label("Reason").fill("weights")
        page.get_by_role("button", name="Approve for every node").click()
        expect(page.get_by_role("status")).to_contain_text("is in coding-agent now")


def test_live_verdicts_pause_and_go_on(plane: Plane, tokens: Tokens, address: str, browser: Browser) -> None:
    """What came meanwhile is not lost."""
    with opened(browser, address) as page:
        sign_in(page, tokens.viewer)
        page.goto("/verdicts?verdict=denied")
        expect(page.locator("#live-state")).to_have_text("Live")
        page.get_by_role("button", name="Pause").click()
        report(plane.database, "sandbox-02", [denial(name="held.example")])
        expect(page.locator("#live-state")).to_have_text("Paused, more has come")
        expect(page.get_by_text("held.example")).to_have_count(0)
        page.get_by_role("button", name="Go on").click()
        expect(page.get_by_text("held.example").first).to_be_visible()
        report(plane.database, "sandbox-02", [denial(name="flows.example")], log="2")
        expect(page.get_by_text("flows.example").first).to_be_visible()
        assert page.get_by_role("link", name="Approve").count() == 0  # a viewer


def test_a_page_that_is_left_open_goes_to_sign_in_when_the_session_ends(
    plane: Plane, tokens: Tokens, address: str, browser: Browser
) -> None:
    """One that follows verdicts, and one that refreshes its table; another's goes on."""
    ended = r"net::ERR_ABORTED|\[object Event\]"  # as htmx says it of a stream
    with (
        opened(browser, address, known=ended) as live,
        opened(browser, address) as table,
        opened(browser, address) as other,
    ):
        sign_in(live, tokens.viewer)
        sign_in(table, tokens.viewer)
        sign_in(other, tokens.approver)
        live.goto("/verdicts")
        expect(live.locator("#live-state")).to_have_text("Live")
        with plane.database.writing() as tx:
            people.remove(tx, "vera")
        expect(live.get_by_role("heading", level=1)).to_have_text("Sign in", timeout=REFRESHED)
        expect(table.get_by_role("heading", level=1)).to_have_text("Sign in", timeout=REFRESHED)
        expect(other.get_by_role("heading", level=1)).to_have_text("Nodes")


def test_a_filter_works_while_it_is_typed_and_stands_in_the_address(
    tokens: Tokens, address: str, browser: Browser
) -> None:
    """And a filter that means nothing is said to, in its place."""
    with opened(browser, address) as page:
        sign_in(page, tokens.viewer)
        page.get_by_label("Find").press_sequentially("build")
        expect(page.get_by_role("row")).to_have_count(3)
        expect(page).to_have_url(re.compile(r"/nodes\?q=build$"))
        assert page.evaluate("document.activeElement.id") == "f-q"
        page.reload()
        expect(page.get_by_role("row")).to_have_count(3)
        page.get_by_label("Find").fill("")
        expect(page.get_by_role("row")).to_have_count(7)
    with opened(browser, address) as page:
        sign_in(page, tokens.viewer)
        page.goto("/workloads?q=coder")
        expect(page.get_by_role("row")).to_have_count(5)


def test_tables_refresh_by_themselves(plane: Plane, tokens: Tokens, address: str, browser: Browser) -> None:
    """Every five seconds while somebody looks, and without moving the focus."""
    with opened(browser, address) as page:
        sign_in(page, tokens.viewer)
        page.goto("/denials")
        page.get_by_role("link", name="Times").focus()
        report(plane.database, "sandbox-02", [denial(name="fresh.example")])
        expect(page.get_by_role("rowheader").filter(has_text="fresh.")).to_be_visible(timeout=REFRESHED)
        assert page.evaluate("document.activeElement.id") == "sort-count"


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (NARROW, "dark"), (NARROWEST, "light")])
def test_no_page_is_wider_than_the_screen_or_has_a_nameless_control(
    tokens: Tokens, address: str, browser: Browser, size: tuple[int, int], scheme: str
) -> None:
    """As wide as a desk's, a phone's, and 320 pixels; and the ground is as light or dark as the system's."""
    with opened(browser, address, size, color_scheme=scheme) as page:
        sign_in(page, tokens.admin)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(247, 245, 240)", "dark": "rgb(15, 18, 24)"}[scheme]
        for path in PATHS:
            page.goto(path)
            assert page.evaluate(OVERFLOW) <= 0, path
            assert page.evaluate(NAMELESS) == [], path
            levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((one) => +one.tagName[1])")
            assert levels[0] == 1, path
            assert all(lower - upper <= 1 for upper, lower in zip(levels, levels[1:], strict=False)), path


@pytest.mark.skipif(not AXE, reason="EXEAT_AXE does not say where axe.min.js of axe-core is")
@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (NARROW, "dark")])
def test_axe_finds_nothing(tokens: Tokens, address: str, browser: Browser, size: tuple[int, int], scheme: str) -> None:
    """WCAG 2.2 A and AA, and its best practices."""
    found = {}
    with opened(browser, address, size, color_scheme=scheme, bypass_csp=True) as page:
        for path in ("/sign-in", *PATHS):
            if path == PATHS[0]:
                sign_in(page, tokens.admin)
            page.goto(path)
            page.add_script_tag(path=AXE)
            violations = page.evaluate(RUN_AXE)
            found |= {(path, one["id"]): [node["html"][:120] for node in one["nodes"]][:3] for one in violations}
    assert not found, json.dumps({" ".join(key): nodes for key, nodes in found.items()}, indent=1)
