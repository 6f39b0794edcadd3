"""Takes the pictures of docs/console.md: `PYTHONPATH=tests python -m e2e.console_pictures docs/pictures`."""

import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from plane.console_stage import fill, make_tokens, open_plane, serving

_APPROVE = "/denials/approve?target=huggingface.example&workload=/agents.slice/coder-12.scope&policies=coding-agent"
_WIDE, _PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 800}
_PICTURES = (
    ("nodes", "/nodes", "light", _WIDE),
    ("live", "/verdicts", "dark", _WIDE),
    ("denials", "/denials", "light", _WIDE),
    ("approve", _APPROVE, "light", _WIDE),
    ("phone", "/denials", "dark", _PHONE),
)


def main(folder: Path) -> None:
    """Each as somebody sees it who may approve."""
    with tempfile.TemporaryDirectory() as place, open_plane(Path(place)) as plane, sync_playwright() as playwright:
        fill(plane.database)
        tokens = make_tokens(plane.database, time.time_ns())
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        with serving(plane) as address:
            for name, path, scheme, size in _PICTURES:
                context = browser.new_context(base_url=address, viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
                page = context.new_page()
                page.goto("/sign-in")
                page.get_by_label("Token").fill(tokens.approver)
                page.get_by_role("button", name="Sign in").click()
                page.goto(path)
                page.wait_for_timeout(700)  # until what follows the verdicts says so
                page.screenshot(path=folder / f"console-{name}.png", animations="disabled")
                context.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
