"""The directory of policy files: what is in force, what is rejected and why, what a restart remembers."""

import os
from pathlib import Path

import pytest

from exeat.agent.shelf import FILE_MAX, Shelf

GOOD = """\
apiVersion: exeat.dev/v1
kind: EgressPolicy
metadata: {{name: {name}}}
spec:
  owner: tests@example.com
  reason: "tests"
  egress:
  - {{name: web, hosts: ["{host}"]}}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a place for policies; the copies' place is made when it is needed."""
    (tmp_path / "policies.d").mkdir()
    return tmp_path


def shelf_at(place: Path) -> Shelf:
    """As an agent opens it."""
    return Shelf(place / "policies.d", place / "accepted")


def put(place: Path, file: str, text: str | None = None, *, name: str = "one", host: str = "a.test") -> Path:
    """A policy file, in place at once."""
    path = place / "policies.d" / file
    draft = place / "draft"
    draft.write_text(GOOD.format(name=name, host=host) if text is None else text)
    draft.replace(path)
    return path


def hosts(shelf: Shelf) -> dict[str, str]:
    """The host of each policy in force."""
    return {name: str(held.policy.rules[0].hosts[0]) for name, held in shelf.in_force.items() if held.policy}


def test_files_come_change_and_go(place: Path) -> None:
    """read() says whether that changed what is in force."""
    shelf = shelf_at(place)
    assert not shelf.read()
    put(place, "a.yaml")
    assert shelf.read()
    assert not shelf.read()
    put(place, "a.yaml", host="b.test")
    assert shelf.read()
    assert hosts(shelf) == {"one": "b.test"}
    (place / "policies.d" / "a.yaml").unlink()
    assert shelf.read()
    assert hosts(shelf) == {}


def test_a_file_that_only_was_touched_changes_nothing(place: Path) -> None:
    """Its text counts."""
    path = put(place, "a.yaml")
    shelf = shelf_at(place)
    shelf.read()
    os.utime(path, (1, 1))
    assert not shelf.read()
    put(place, "a.yaml")
    assert not shelf.read()


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "{", GOOD.format(name="one", host="*"), "\0", "a: &a [*a, *a]\n", "- " * 3000],
    ids=["empty", "nonsense", "unclosed", "no host", "nul", "anchors", "deep"],
)
def test_a_bad_text_leaves_the_good_one_in_force(place: Path, text: str) -> None:
    """And says where, until it is mended."""
    put(place, "a.yaml")
    shelf = shelf_at(place)
    shelf.read()
    shelf.save()
    put(place, "a.yaml", text)
    assert not shelf.read()
    assert hosts(shelf) == {"one": "a.test"}
    assert "a.yaml" in shelf.held[0].errors[0]
    again = shelf_at(place)
    assert again.read()
    assert hosts(again) == {"one": "a.test"}
    assert again.held[0].errors
    put(place, "a.yaml", host="b.test")
    assert again.read()
    assert (hosts(again), again.held[0].errors) == ({"one": "b.test"}, ())


def test_bytes_that_are_no_text_and_files_that_are_no_files_are_rejected(place: Path) -> None:
    """Each with its name; what is good beside them holds."""
    (place / "policies.d" / "bytes.yaml").write_bytes(b"\xff\xfe")
    (place / "policies.d" / "directory.yaml").mkdir()
    (place / "policies.d" / "nowhere.yaml").symlink_to("/nowhere")
    with (place / "policies.d" / "huge.yaml").open("wb") as file:
        file.truncate(FILE_MAX + 1)
    put(place, "good.yaml")
    shelf = shelf_at(place)
    assert shelf.read()
    assert hosts(shelf) == {"one": "a.test"}
    assert {held.file for held in shelf.held if held.errors} == {
        "bytes.yaml", "directory.yaml", "nowhere.yaml", "huge.yaml",
    }  # fmt: skip


def test_a_fifo_does_not_hold_the_agent_up(place: Path) -> None:
    """Whoever may write the directory may make one."""
    os.mkfifo(place / "policies.d" / "pipe.yaml")
    put(place, "good.yaml")
    shelf = shelf_at(place)
    assert shelf.read()
    assert hosts(shelf) == {"one": "a.test"}
    assert shelf.held[-1].file == "pipe.yaml"
    assert shelf.held[-1].errors


def test_of_two_files_with_one_name_the_first_holds(place: Path) -> None:
    """And takes over from the other when that goes."""
    put(place, "a.yaml", host="a.test")
    put(place, "b.yaml", host="b.test")
    shelf = shelf_at(place)
    shelf.read()
    assert hosts(shelf) == {"one": "a.test"}
    assert "a.yaml has a policy named one already" in shelf.held[1].errors[0]
    (place / "policies.d" / "a.yaml").unlink()
    assert shelf.read()
    assert hosts(shelf) == {"one": "b.test"}
    assert not shelf.held[0].errors


def test_what_is_no_policy_file_is_left_alone(place: Path) -> None:
    """Drafts of editors, and other people's files."""
    for name in (".a.yaml.swp", ".hidden.yaml", "a.yaml~", "README", "a.yaml.new"):
        put(place, name, "nonsense")
    shelf = shelf_at(place)
    assert not shelf.read()
    assert shelf.held == ()


def test_a_directory_that_goes_takes_no_policy_with_it(place: Path) -> None:
    """It says so, and finds them again."""
    put(place, "a.yaml")
    shelf = shelf_at(place)
    shelf.read()
    (place / "policies.d").rename(place / "elsewhere")
    assert not shelf.read()
    assert hosts(shelf) == {"one": "a.test"}
    assert shelf.complaints
    (place / "elsewhere").rename(place / "policies.d")
    assert not shelf.read()
    assert not shelf.complaints


def test_a_removed_policy_has_no_copy_to_come_back_from(place: Path) -> None:
    """A bad file of its name later is just bad."""
    path = put(place, "a.yaml")
    shelf = shelf_at(place)
    shelf.read()
    shelf.save()
    path.unlink()
    shelf.read()
    shelf.save()
    put(place, "a.yaml", "nonsense")
    again = shelf_at(place)
    again.read()
    assert hosts(again) == {}


def test_copies_that_cannot_be_kept_are_complained_about_and_tried_again(place: Path) -> None:
    """What is in force stays so."""
    put(place, "a.yaml")
    (place / "accepted").write_text("in the way")
    shelf = shelf_at(place)
    assert shelf.read()
    shelf.save()
    assert "nothing to fall back to" in shelf.complaints[0]
    (place / "accepted").unlink()
    shelf.save()
    assert (place / "accepted" / "a.yaml").read_text() == GOOD.format(name="one", host="a.test")
    assert (place / "accepted" / "a.yaml").stat().st_mode & 0o077 == 0
