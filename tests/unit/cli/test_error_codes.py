"""The help on error codes is complete, true to the code, and the same in every form."""

import json
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import click
import pytest

from emitterd.cli.commands.error_codes import CodeHelp, all_codes, explain
from emitterd.client import responses as classify
from emitterd.client.responses import (
    RequestKind,
    api_error,
    bucket_error,
    transport_error,
    upload_error,
)
from emitterd.codes import Code, load_texts
from emitterd.datasets.findings import LOSSES, consequence, severity
from emitterd.errors import Decision, DeliveryError
from emitterd.service.journald import message_id
from support.command import command_options
from support.paths import ROOT
from tools.error_codes import catalog, document

DOCUMENT = ROOT / "docs" / "errors.md"
CATALOG = ROOT / "docs" / "monitoring" / "emitterd.catalog"

CODE_SPAN = re.compile(r"`([^`]*)`")
SETTING = re.compile(r"[\w.]+: ?.*")
"""A line of emitter.yaml, or of an HTTP answer: nothing that a shell could run."""

DEFAULT = re.compile(r"`([a-z]+\.[a-z_]+)`(?: \(|, )(\d+[A-Za-z]+)[) ]")
ANSWERED = {
    name: b"<Error><Code>" + name.encode() + b"</Code></Error>"
    for name in ("", *classify._BUCKET_CODES)
}


def spans(text: str) -> list[str]:
    """Return what stands in code style."""
    return CODE_SPAN.findall(text)


def prose(code_help: CodeHelp) -> str:
    """Return everything that the help adds to a code."""
    return "\n".join([code_help.meanwhile, *code_help.steps])


EVERYTHING = "\n".join(
    [
        *load_texts()["introduction"],
        *(section["introduction"] for section in load_texts()["sections"].values()),
        *(prose(code_help) for code_help in all_codes()),
    ]
)


BREAKS = [
    Code.DNS,
    Code.REFUSED,
    Code.TLS,
    Code.CONNECT_TIMEOUT,
    Code.PROXY,
    Code.HOST_SHORTAGE,
    Code.CONNECTION_LOST,
    Code.TOO_SLOW,
]
"""The codes of a request that had no answer."""


def retry_table() -> dict[Code, set[Decision]]:
    """Return what each code of an answer, or of the lack of one, may mean."""
    troubles: list[DeliveryError | None] = [
        transport_error(request, code, "", body_sent=sent)
        for request in RequestKind
        for code in BREAKS
        for sent in (False, True)
    ]
    for status in range(100, 600):
        troubles += [
            api_error(stage, status, {}, b"") for stage in (RequestKind.LOGIN, RequestKind.GRANT)
        ]
        troubles += [
            upload_error(status, {}, body)
            for body in (b"", b'{"message": "Schema doesn\'t exist"}')
        ]
        troubles += [bucket_error(status, {}, body, {}) for body in ANSWERED.values()]
    verdicts: dict[Code, set[Decision]] = defaultdict(set)
    for trouble in troubles:
        if trouble is not None:
            verdicts[trouble.code].add(trouble.decision)
    return verdicts


def begins_with(code_help: CodeHelp) -> str | None:
    """Return the common text that the help begins with, by its name."""
    names = [
        name
        for name, text in load_texts()["outcomes"].items()
        if code_help.meanwhile.startswith(text)
    ]
    return names[0] if names else None


@pytest.mark.parametrize("code_help", all_codes(), ids=lambda code_help: code_help.code)
def test_every_code_has_all_parts(code_help: CodeHelp) -> None:
    """One to four steps in sentences, and what emitterd does meanwhile."""
    assert (code_help.title, code_help.remedy) == (code_help.code.title, code_help.code.remedy)
    assert 1 <= len(code_help.steps) <= 4
    for text in (code_help.meanwhile, *code_help.steps):
        assert text == " ".join(text.split())
        assert text.endswith(".")
        assert text[0].isupper() or text.startswith(("`", "emitterd", "cQube"))
        assert text.count("`") % 2 == 0
        assert "<" not in CODE_SPAN.sub("", text)


def test_the_texts_are_of_known_codes() -> None:
    """The file has a page for each code, in order, and uses all that it holds."""
    book = load_texts()
    used = {page["outcome"] for page in book["codes"].values() if "outcome" in page}

    assert list(book["codes"]) == list(Code)
    assert used == set(book["outcomes"])
    for page in book["codes"].values():
        assert page.keys() <= {"title", "remedy", "outcome", "meanwhile", "steps"}


RETRY_TABLE = retry_table()

NEVER_SENT = {Code.WRONG_ENDING, Code.WRONG_DEPTH}
"""Findings of files that are not sent, with any `spool.catalogue`."""


@pytest.mark.parametrize("code", sorted(RETRY_TABLE))
def test_what_becomes_of_the_file_is_what_the_retry_table_says(code: Code) -> None:
    """The outcome in the help of a code is the one in the retry table."""
    verdicts = RETRY_TABLE[code]
    expected: str | None = "paused"
    if Decision.RENEW_GRANT in verdicts:
        expected = None
    elif Decision.DEFER in verdicts:
        expected = "deferred"
    elif Decision.REJECT in verdicts:
        expected = "rejected"
    elif Decision.REFUSE in verdicts:
        expected = "refused"

    assert begins_with(explain(code)) == expected


def test_the_retry_table_was_seen_whole() -> None:
    """Every code of line, API and bucket is held, but those that no status gives."""
    elsewhere = {Code.HOSTILE_GRANT, Code.ETAG_MISMATCH, Code.AZURE_STORAGE, Code.LOCAL_STORAGE}
    elsewhere |= {Code.NOT_FINISHED, Code.PROCESSING_FAILED, Code.NOTHING_PROCESSED}

    assert set(RETRY_TABLE) == {code for code in Code if code[1] in "345"} - elsewhere


@pytest.mark.parametrize("code", sorted(set(LOSSES) - NEVER_SENT))
def test_a_finding_is_judged_by_its_level(code: Code) -> None:
    """Errors are rejected under enforce, warnings and notes are not."""
    code_help = explain(code)

    assert code_help.consequence == consequence(code, LOSSES[code])
    assert begins_with(code_help) == severity(LOSSES[code]).value


@pytest.mark.parametrize("code", sorted(NEVER_SENT))
def test_some_findings_are_not_sent_under_any_rule(code: Code) -> None:
    """DATA.ZIP is no candidate, and a zip at the top is never sent: no warning would do."""
    assert begins_with(explain(code)) is None


def test_commands_of_emitterd_exist() -> None:
    """A step names no command and no option that there is not."""
    known = command_options()
    named = [
        span.removeprefix("runuser -u emitterd -- ")
        for span in spans(EVERYTHING)
        if span.removeprefix("runuser -u emitterd -- ").startswith("emitterd ")
    ]

    assert named
    for span in named:
        _, command, *rest = span.split()
        if command.startswith("-"):
            assert span == "emitterd --version"
            continue
        assert command in known, span
        assert {item for item in rest if item.startswith("-")} <= known[command], span


def test_commands_can_be_pasted() -> None:
    """A shell can read each command that a step gives."""
    shell = shutil.which("sh")
    commands = [
        span
        for code_help in all_codes()
        for step in code_help.steps
        for span in spans(step)
        if re.match(r"[a-z]\S* ", span) and not SETTING.fullmatch(span)
    ]

    assert len(commands) > 100
    assert shell is not None
    read = subprocess.run(  # noqa: S603  it reads and runs nothing
        [shell, "-n"], input="\n".join(commands), capture_output=True, text=True, check=False
    )
    assert read.stderr == ""


def test_keys_and_events_exist() -> None:
    """What is named like a key or an event is one that is documented."""
    keys = re.findall(r"EMITTERD_([A-Z]+)_([A-Z_]+)`", (ROOT / "docs/configuration.md").read_text())
    known = {f"{section}.{key}".lower() for section, key in keys}
    known |= set(
        re.findall(r"^\| `([a-z_.]+)` ", (ROOT / "docs/events.md").read_text(), re.MULTILINE)
    )
    named = {
        span.partition(":")[0]
        for span in spans(EVERYTHING)
        if re.fullmatch(r"(spool|journal|delivery|emission|log)\.[a-z_]+(: .*)?", span)
        or re.fullmatch(r"(daemon|file|destination|auth|watch|sweep)\.[a-z_]+", span)
    }

    assert len(named) > 10
    assert named <= known


def test_defaults_are_those_of_the_configuration() -> None:
    """Where a text names a default, it is the one of the reference."""
    reference = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    named = DEFAULT.findall(EVERYTHING)

    assert len({key for key, _ in named}) > 3
    for key, value in named:
        variable = f"EMITTERD_{key.replace('.', '_').upper()}`"
        (row,) = [line for line in reference.splitlines() if variable in line]
        assert f"| `{value}` |" in row, key


def test_the_document_is_made_of_the_help() -> None:
    """`python -m tools.error_codes docs` corrects a difference."""
    assert DOCUMENT.read_text("utf-8") == document()


def test_the_catalog_is_made_of_the_help() -> None:
    """`python -m tools.error_codes docs` corrects a difference."""
    assert CATALOG.read_text("utf-8") == catalog()
    # journalctl would take the one for a comment, the other for the name of a field.
    assert not re.search("^[#;]|@", catalog().partition("\n")[2], re.MULTILINE)


@pytest.mark.tools("journalctl")
def test_journalctl_reads_the_catalog(tmp_path: Path) -> None:
    """`journalctl --update-catalog` takes all codes, and shows the help on each."""

    def journalctl(*arguments: str) -> str:
        command = ["journalctl", f"--root={tmp_path}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        return done.stdout

    (tmp_path / "usr/lib/systemd/catalog").mkdir(parents=True)
    shutil.copy(CATALOG, tmp_path / "usr/lib/systemd/catalog")
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    journalctl("--update-catalog")
    assert len(journalctl("--list-catalog").splitlines()) == len(Code)
    shown = journalctl("--dump-catalog", message_id(Code.TOO_LARGE))
    assert shown.strip().splitlines()[1] == f"Subject: E202: {Code.TOO_LARGE.title}"
    assert explain("E202").text().partition("\n\n")[2] in shown


def test_the_document_is_no_html() -> None:
    """But for its anchors, text in angle brackets is seen by the reader."""
    text = re.sub(r'^<a id="e\d{3}"></a>$', "", document(), flags=re.MULTILINE)

    assert not re.search(r"(?<!\\)<", CODE_SPAN.sub("", text))


@pytest.mark.parametrize("written", ["E210", "e210", "210", " E210 ", "\te210\n"])
def test_a_code_may_be_written_in_any_way(written: str) -> None:
    """Case, blanks around it, and the letter do not matter."""
    assert explain(written).code is Code.CATALOGUE


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("E219", "no error code 'E219':"),
        ("9" * 5000, "9':"),
        ("", "no error code '':"),
        ("catalogue", "no error code 'catalogue':"),
        ("E²10", "no error code 'E²10':"),
        ("E\x1b[31m", r"no error code 'E\x1b[31m':"),
    ],
    ids=["near", "long", "empty", "word", "superscript", "escape"],
)
def test_an_unknown_code_is_wrong_usage(written: str, message: str) -> None:
    """The message says how to list all codes, and cannot colour a terminal."""
    with pytest.raises(click.BadParameter) as caught:
        explain(written)

    assert message in str(caught.value)
    assert "`emitterd explain-error` without a code lists all" in str(caught.value)


@pytest.mark.parametrize("code_help", all_codes(), ids=lambda code_help: code_help.code)
def test_the_text_fits_and_breaks_no_command(code_help: CodeHelp) -> None:
    """All is there, in lines of 80 columns; a command may stand out, alone."""
    lines = code_help.text().splitlines()
    reported = [f"{code_help.code}: {code_help.title}", f"Meanwhile: {code_help.meanwhile}"]
    reported += [f"If it is sent: {code_help.consequence}."] if code_help.consequence else []
    reported += [f"What to do: {code_help.remedy}."]
    reported += [f"{number}. {step}" for number, step in enumerate(code_help.steps, 1)]

    assert " ".join(" ".join(lines).split()) == " ".join(reported)
    for line in lines[1:]:
        assert line.count("`") % 2 == 0
        assert len(line) <= 80 or re.fullmatch(r"\S*`[^`]*`\S*", line.strip())


def test_the_help_as_data() -> None:
    """JSON has every part under its name; a finding says what the server would do."""
    line = json.loads(json.dumps(explain("E301").record()))
    finding = json.loads(json.dumps(explain("E220").record()))

    assert list(line) == ["code", "title", "remedy", "meanwhile", "steps"]
    assert line["code"] == "E301"
    assert line["steps"] == list(explain("E301").steps)
    assert finding["consequence"] == consequence(Code.WRONG_DEPTH, LOSSES[Code.WRONG_DEPTH])
