"""The guides of docs/ are followed, and the examples for CI run: what is to be typed is typed, what is shown comes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.guide_stage import GuideStage, missing_from, open_guide_stage, typed_in

pytestmark = pytest.mark.timeout(400)
EXAMPLES = Path(__file__).parents[2] / "packaging" / "examples"
POLICY = """\
apiVersion: exeat.dev/v1
kind: EgressPolicy
metadata: {name: build}
spec:
  owner: ml-platform@example.com
  reason: "what a build reaches"
  subject: {labels: {ci: build}}
  egress:
  - {name: packages, hosts: [pypi.example, files.pypi.example]}
"""
HONEST = "build:\n\tcurl -sS https://files.pypi.example/\n"
TALKATIVE = f"{HONEST}\tcurl -sS https://telemetry.example/ || true\n"


@pytest.fixture(scope="module")
def stage() -> Iterator[GuideStage]:
    """One agent for all guides."""
    with open_guide_stage() as stage:
        yield stage


@pytest.mark.parametrize("guide", ["first-steps.md", "from-discovery-to-enforcement.md", "sandbox-hosts.md"])
def test_what_a_guide_shows_is_what_comes(stage: GuideStage, guide: str) -> None:
    """Line by line, with the counts; only times, sizes, hashes and process ids are others."""
    stage.begin()
    typed = typed_in(guide)
    assert len(typed) > 10
    for one, came in zip(typed, stage.follow([one.command for one in typed]), strict=True):
        assert missing_from(came, one.shown) == [], f"{one.command}\n{came}"
    assert (stage.bytes_of("api.models.example") > 0) == (guide != "sandbox-hosts.md")  # its guest is not started
    assert stage.bytes_of("evil.example") == 0


def test_what_the_guide_for_ci_types_works(stage: GuideStage) -> None:
    """In a checkout whose build reaches one host."""
    stage.begin()
    (stage.directory / "home" / "ci").mkdir()
    (stage.directory / "home" / "Makefile").write_text(HONEST)
    typed = typed_in("ci-jobs.md")
    assert len(typed) == 5
    for one, came in zip(typed, stage.follow([one.command for one in typed]), strict=True):
        assert missing_from(came, one.shown) == [], f"{one.command}\n{came}"
    assert "files.pypi.example" in (stage.directory / "home" / "ci" / "egress.yaml").read_text()


def github_steps() -> list[str]:
    """The shell lines of the example, with its variables put in."""
    (job,) = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text())["jobs"].values()
    lines = [step["run"] for step in job["steps"] if "run" in step]
    return [re.sub(r"\$\{\{ vars\.EXEAT_DEB \}\}", "https://pypi.example/exeat.deb", line) for line in lines]


def gitlab_steps() -> list[str]:
    """Likewise."""
    job: dict[str, Any] = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text())["build"]
    return [*job["script"], *job["after_script"]]


def play(stage: GuideStage, steps: list[str], *, makefile: str, mode: str) -> tuple[list[str], list[int]]:
    """A checkout with this Makefile, and the steps in it as the runner runs them; what each wrote, its status."""
    stage.begin()
    files = stage.directory / "home"
    (files / "ci").mkdir()
    (files / "ci" / "egress.yaml").write_text(POLICY)
    (files / "Makefile").write_text(makefile)
    bash = [f"bash -e -o pipefail -c {quoted(step)}; echo $? >>statuses" for step in steps]
    written = stage.follow(bash, {"EXEAT_MODE": mode, "GITHUB_STEP_SUMMARY": "summary"})
    return written, [int(line) for line in (files / "statuses").read_text().split()]


def quoted(text: str) -> str:
    """For a shell."""
    return "'" + text.replace("'", "'\\''") + "'"


STEPS = pytest.mark.parametrize("steps", [github_steps(), gitlab_steps()], ids=["github", "gitlab"])


@STEPS
def test_a_build_that_keeps_to_its_policy_passes(stage: GuideStage, steps: list[str]) -> None:
    """In both modes; the command runs as the runner's user."""
    for mode in ("monitor", "enforce"):
        written, statuses = play(stage, steps, makefile=f"{HONEST}\tid -u\n", mode=mode)
        assert set(statuses) == {0}, written
        assert any("I am files.pypi.example" in text and "65534" in text for text in written)


@STEPS
def test_in_monitor_mode_a_stranger_is_reached_and_the_job_fails(stage: GuideStage, steps: list[str]) -> None:
    """With 3, by --fail-on-deny; and the last step says what the policy lacks."""
    written, statuses = play(stage, steps, makefile=TALKATIVE, mode="monitor")
    assert sorted(statuses) == [*[0] * (len(steps) - 1), 3], written
    assert any("would be denied" in text for text in written)
    assert stage.bytes_of("telemetry.example") > 0
    told = "".join((stage.directory / "home" / name).read_text() for name in ("summary", "proposed.yaml") if
                   (stage.directory / "home" / name).exists())  # fmt: skip
    assert "telemetry.example" in told


@STEPS
def test_in_enforce_mode_a_stranger_is_not_reached_and_the_job_fails(stage: GuideStage, steps: list[str]) -> None:
    """The same build over the same path."""
    written, statuses = play(stage, steps, makefile=TALKATIVE, mode="enforce")
    assert sorted(statuses) == [*[0] * (len(steps) - 1), 3], written
    assert any("exeat: denied: telemetry.example" in text for text in written)
    assert stage.bytes_of("telemetry.example") == 0
    assert stage.bytes_of("files.pypi.example") > 0
