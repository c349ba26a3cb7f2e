"""YAML: key paths, lines, duplicate keys, and errors that quote no secret."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import NOBODY, Python
from emitterd.errors import Problem
from emitterd.text import printable
from emitterd.yaml_reader import Node, YamlError, parse

SECRET = "correct-horse-battery"


def test_every_key_has_its_line_and_every_duplicate_both() -> None:
    """Lines count from 1; the first value of a duplicate key stays."""
    document = parse("a: 1\n\nb:\n  c: x\n  c: y\na: 2\n")
    assert document.root == Node(
        "",
        1,
        children={"a": Node("a", 1, "1"), "b": Node("b", 3, children={"c": Node("b.c", 4, "x")})},
    )
    remedy = "keep one of the two lines"
    assert document.duplicates == (
        Problem("b.c", 5, "is given twice, on line 4 and line 5", remedy),
        Problem("a", 6, "is given twice, on line 1 and line 6", remedy),
    )


def test_a_file_that_the_user_may_not_read_needs_root(python: Python, tmp_path: Path) -> None:
    """The remedy is the present command, run by root."""
    (tmp_path / "emitter.yaml").touch(0o600)
    script = f"""
import sys
from pathlib import Path
from emitterd.yaml_reader import YamlError, read_text
sys.argv = ["emitterd", "list", "--state", "held"]
{NOBODY}
try:
    read_text(Path("emitter.yaml"), "a configuration file")
except YamlError as error:
    print(error, error.remedy, sep="; ")
"""
    assert python(script, cwd=tmp_path) == (
        "cannot be read: Permission denied; run it as root: emitterd list --state held\n"
    )


def test_a_key_that_is_no_plain_word_is_hidden_or_escaped() -> None:
    """In `emitter.yaml` it may be a password; in a catalogue it is only printable."""
    text = f'"{SECRET}: x\\n": 1\n'
    hidden, escaped = parse(text).root, parse(text, printable).root
    assert hidden is not None
    assert escaped is not None
    assert [node.path for node in (hidden.children or {}).values()] == ["(no plain word)"]
    assert [node.path for node in (escaped.children or {}).values()] == [f"{SECRET}: x\\n"]


@pytest.mark.parametrize("text", ["", "# nothing", "\n\n"])
def test_an_empty_document_has_no_root(text: str) -> None:
    """Comments and blank lines are no content."""
    assert parse(text).root is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.10", "1.10"),
        ("true", "true"),
        ("off", "off"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("9" * 5000, "9" * 5000),
        ("~", ""),
        ("null", ""),
        ("'~'", "~"),
        ('"null"', "null"),
        ("", ""),
        ("''", ""),
        ("'|'", "|"),
        ("[a, 1]", ["a", "1"]),
        ("a|b|\n  c", "a|b| c"),
    ],
)
def test_scalars_are_text(text: str, value: object) -> None:
    """No scalar is a number or a boolean, and null is the empty text; lines are counted."""
    root = parse(f"# first\nkey: {text}").root
    assert root is not None
    assert root.children == {"key": Node("key", 2, value)}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (f"a:\n  b: '{SECRET}\n", 3, "what begins on line 2"),
        (f"a: b: {SECRET}\n", 1, "mapping values are not allowed"),
        (f"a: 1\nb: *{SECRET}\n", 2, "anchors and aliases are not supported"),
        (f"a: &{SECRET} x\n", 1, "anchors and aliases are not supported"),
        (f"a: !{SECRET} x\n", 1, "tags are not supported"),
        (f"a: !!int {SECRET}\n", 1, "tags are not supported"),
        (f"a: %{SECRET}\n", 1, "that cannot start any token"),
        (f"a: [{SECRET}\n", 2, "expected ',' or ']'"),
        (f"? [{SECRET}]\n: b\n", 1, "a key must be a plain word"),
        (f"a: [{{? [{SECRET}] : c}}]\n", 1, "unhashable key"),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
        ("a: 1\nb: \x07\n", 2, "holds a character that YAML forbids"),
        ("[" * 5000, None, "is nested too deeply"),
    ],
)
def test_a_text_that_is_not_yaml_is_refused_without_quoting_it(
    text: str, line: int | None, message: str
) -> None:
    """The error has a message and a line, and no part of the text."""
    with pytest.raises(YamlError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert caught.value.line == line
    assert caught.value.remedy
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_forbidden_character_after_wide_ones_has_the_right_line() -> None:
    """Lines are counted in characters, not in bytes."""
    with pytest.raises(YamlError) as caught:
        parse("é: é\nb: \x07\nc: d\n")
    assert caught.value.line == 2


@given(text=st.text(alphabet="ab: -\n\t'\"[]{}#*&!%@|>?,<=~01._\x00\ufeff\ud800"))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """No text raises anything but `YamlError`."""
    with contextlib.suppress(YamlError):
        parse(text)
