"""What a runtime says, bounded before it is kept."""

from __future__ import annotations

import json

import pytest

from exeat.core.runtime_words import (
    IMAGES_MAX,
    KEY_MAX,
    NAME_MAX,
    VALUE_MAX,
    images_of,
    labels_of,
    plain_text,
)


def test_labels_are_sorted_and_what_cannot_be_kept_is_left_out() -> None:
    """A label that is cut could be another's."""
    said = {
        "b": "2", "a": "", "long": "x" * (VALUE_MAX + 1), "k" * (KEY_MAX + 1): "v", "": "v", "number": 3, "none": None,
        "half": json.loads('"\\ud800"'), json.loads('"\\udfff"'): "v", "fits": "x" * VALUE_MAX, "new\nline": "\x1b[31m",
    }  # fmt: skip
    assert labels_of(said) == (("a", ""), ("b", "2"), ("fits", "x" * VALUE_MAX), ("new\nline", "\x1b[31m"))


def test_however_many_labels_there_are_none_drives_out_another() -> None:
    """The one by which a policy selects may come last."""
    labels = labels_of({f"{number:05}": "v" for number in range(5000)} | {"zone": "sandbox"})
    assert len(labels) == 5001
    assert labels[-1] == ("zone", "sandbox")


def test_what_is_the_same_elsewhere_is_left_out() -> None:
    """As labels that an image brings are."""
    assert labels_of({"a": "1", "b": "2"}, {"a": "1", "b": "3"}) == (("b", "2"),)


@pytest.mark.parametrize("said", [None, 3, "text", ["a"], {1: "v"}])
def test_what_are_no_labels_are_none(said: object) -> None:
    """Without an error: it is data."""
    assert labels_of(said) == ()
    assert labels_of({"a": "1"}, said) == (("a", "1"),)


def test_a_name_is_taken_whole_or_not_at_all() -> None:
    """A beginning might be another's name."""
    assert plain_text("x" * NAME_MAX) == "x" * NAME_MAX
    assert plain_text("x" * (NAME_MAX + 1)) == ""
    assert plain_text(None) == plain_text(7) == plain_text(b"x") == ""


def test_names_of_images_are_each_told_once() -> None:
    """Of lists, of which some may be none at all."""
    assert images_of(["a", "b", 3, "a"], (), ["c", ""]) == ("a", "b", "c")
    assert len(images_of([str(number) for number in range(9 * IMAGES_MAX)])) == IMAGES_MAX
