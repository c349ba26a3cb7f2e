"""The minimal emitter.yaml as a template: filled in by name, comments kept."""

from difflib import ndiff

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from emitterd.cli.setup.init import fill, quoted
from emitterd.yaml_reader import parse

TEMPLATE = """\
# A note.
one:
  # What it is for.
  key: old
  # Or this: not a key.
  # other: "..."
two:
  flag: false
"""


def test_keys_are_found_by_name() -> None:
    """A key is set, set where it was commented out, or commented out."""
    text = fill(TEMPLATE, {"key": None, "other": "new", "flag": "true"})

    assert [line for line in ndiff(TEMPLATE.split("\n"), text.split("\n"))
            if line[0] in "+-"] == [
        "-   key: old",
        "+   # key: old",
        '-   # other: "..."',
        "+   other: new",
        "-   flag: false",
        "+   flag: true",
    ]  # fmt: skip
    assert fill(text, {"key": None}) == text


@pytest.mark.parametrize(
    ("text", "key"),
    [(TEMPLATE, "absent"), (TEMPLATE + "  # flag: true\n", "flag")],
    ids=["none", "two"],
)
def test_a_key_that_the_template_lacks_is_an_error(text: str, key: str) -> None:
    """Each key must be there exactly once."""
    with pytest.raises(LookupError, match=key):
        fill(text, {key: "x"})


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("off")
@example("true")
@example("~")
@example("<<")
@example("a: b")
@example("a #b")
@example("'a'")
@example('"a\\"')
@example("&a *b")
@example("@a")
@example("- a")
@example("[a, b]")
@example(" a ")
@example("a\nb")
@example("\x85\u2028\x7f\ufeff\U000e0001")
@example("इमिशन 😀")
def test_any_text_is_read_back(value: str) -> None:
    """A filled-in value is on one line and reads back the same."""
    line = f"key: {quoted(value)}"
    root = parse(line).root

    assert line.isprintable()
    assert root is not None
    assert root.children is not None
    assert root.children["key"].value == value


@pytest.mark.parametrize("value", ["https://h/data", "/srv/cqube_emission"])
def test_a_plain_text_has_no_quotes(value: str) -> None:
    """People will edit these lines."""
    assert quoted(value) == value
