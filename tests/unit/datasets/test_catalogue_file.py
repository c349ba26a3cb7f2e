"""A user's catalogue over the shipped one: what is accepted and what is reported."""

import contextlib
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Python
from emitterd.datasets.catalogue import (
    Catalogue,
    Dataset,
    DatasetKind,
    Header,
    HeaderMatch,
    ValueKind,
    ValueRule,
    Version,
    VersionRange,
)
from emitterd.datasets.catalogue_file import (
    DATASET_KEYS,
    HEADER_KEYS,
    KINDS,
    MATCHES,
    VALUES,
    VARIANTS,
    load_catalogue,
)
from emitterd.errors import ConfigError, Problem
from support.paths import ROOT
from tools.catalogue import document

MANUAL = ROOT / "docs" / "catalogue.md"
SHIPPED = load_catalogue()

Load = Callable[[str], Catalogue]
Problems = Callable[[str], list[Problem]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a text as a user's catalogue over the shipped one."""

    def load(text: str) -> Catalogue:
        path = tmp_path / "own.yaml"
        path.write_text(text)
        return load_catalogue(path)

    return load


@pytest.fixture
def problems(load: Load) -> Problems:
    """Load a text that is wrong, and return its problems."""

    def problems(text: str) -> list[Problem]:
        with pytest.raises(ConfigError) as caught:
            load(text)
        return caught.value.problems

    return problems


def only_new(catalogue: Catalogue) -> Dataset:
    """Return the one dataset that the shipped catalogue does not have."""
    titles = {dataset.title for dataset in SHIPPED.datasets}
    (new,) = [dataset for dataset in catalogue.datasets if dataset.title not in titles]
    return new


def test_the_example_of_the_manual_loads(load: Load) -> None:
    """The dataset of docs/catalogue.md is added with all its properties."""
    example, program = re.findall(r"```yaml\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    assert only_new(load(program)).title == "programs/attendance_daily"
    catalogue = load(example)
    columns = (
        *("student_id", "school_id", "textbook_name", "grade", "subject"),
        *("academic_year", "distribution_date", "issued", "month"),
    )

    new = only_new(catalogue)
    assert new == Dataset(
        "textbook_distribution",
        "textbook_distribution",
        DatasetKind.TRANSACTIONAL,
        rank=new.rank,
        delimiter=",",
        headers=(Header(columns, HeaderMatch.NAMES, columns),),
        keys=("student_id", "school_id"),
        dates=(("distribution_date", "%Y-%m-%d"),),
        values=(
            ValueRule("student_id", ValueKind.INT64),
            ValueRule("school_id", ValueKind.INT64),
            ValueRule("textbook_name", ValueKind.TEXT, VersionRange()),
        ),
        span=VersionRange(Version(3, 7)),
    )
    assert catalogue.datasets[new.rank + 1].kind is DatasetKind.UDISE
    path = b"textbook_distribution/textbook_distribution_2021_07.zip"
    assert catalogue.findings(path) == []
    assert [finding.code for finding in SHIPPED.findings(path)] == ["E221"]


def test_the_manual_has_every_key_and_word() -> None:
    """The tables of docs/catalogue.md list exactly the keys that exist."""
    text = MANUAL.read_text()
    rows = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)

    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(DATASET_KEYS + HEADER_KEYS)
    for word in (*KINDS, *MATCHES, *VALUES, *VARIANTS):
        assert f"`{word}`" in text


def test_the_manual_says_what_is_checked() -> None:
    """The table of docs/catalogue.md is made of the catalogue."""
    assert MANUAL.read_text() == document(MANUAL.read_text())


def test_only_the_kind_is_needed(load: Load) -> None:
    """A new dataset with only a kind accepts all files. A BOM is ignored."""
    new = only_new(load("\ufeffnew/n:\n  kind: master\n"))
    assert new == Dataset("new", "n", DatasetKind.MASTER, rank=new.rank)


def test_a_header_of_columns_alone_asks_for_all_of_them_by_name(load: Load) -> None:
    """The server compares added data sources in this way."""
    new = only_new(load("n/n:\n  kind: udise\n  headers:\n    h:\n      columns: A|b c | D\n"))
    columns = ("A", "b c", "D")
    assert new.headers == (Header(columns, HeaderMatch.NAMES, columns),)


def test_a_header_may_have_every_key(load: Load) -> None:
    """Versions need no quotes: 1.10 is not 1.1."""
    new = only_new(
        load(
            "n/n:\n  kind: master\n  since: 1.10\n  until: 1.10.2\n"
            '  delimiter: "\\t"\n  keys: A\n  headers:\n    h:\n'
            "      variant: state\n      match: names\n      since: 1.1\n"
            "      until: 1.10\n      columns: a | b\n      required: B\n"
        )
    )

    assert new.span == VersionRange(Version(1, 10), Version(1, 10))
    assert new.delimiter == "\t"
    assert new.keys == ("A",)
    span = VersionRange(Version(1, 1), Version(1, 10))
    assert new.headers == (Header(("a", "b"), HeaderMatch.NAMES, ("B",), "state", span),)


def test_columns_have_types_and_marks(load: Load) -> None:
    """`!` marks a column that must have a value, `!3.0` since a version; 1..3 are three columns."""
    new = only_new(
        load(
            "n/n:\n  kind: master\n  dates:\n    d!: '%Y-%m-%d'\n"
            "  values:\n    int32: 1..3\n    text: a | b!3.0\n"
            "  headers:\n    h:\n      columns: a | b | d | 1..3\n"
        )
    )
    assert new.headers[0].columns == ("a", "b", "d", "1", "2", "3")
    assert new.dates == (("d", "%Y-%m-%d"),)
    assert new.values == (
        ValueRule("d", ValueKind.TEXT, VersionRange()),
        *(ValueRule(str(day), ValueKind.INT32) for day in (1, 2, 3)),
        ValueRule("b", ValueKind.TEXT, VersionRange(Version(3, 0))),
    )


def test_a_dataset_replaces_the_shipped_one_whole(load: Load) -> None:
    """Only its place stays, and its kind and its log if none is given."""
    catalogue = load("district_master/district_mst:\n  delimiter: ;\n")
    log = "log_summary/static/log_summary_district.json"

    assert len(catalogue.datasets) == len(SHIPPED.datasets)
    assert catalogue.datasets[0] == Dataset(
        "district_master", "district_mst", DatasetKind.MASTER, rank=0, delimiter=";", log=log
    )
    assert catalogue.datasets[1:] == SHIPPED.datasets[1:]


def test_another_kind_moves_a_dataset(load: Load) -> None:
    """It goes behind the datasets of that kind."""
    catalogue = load("district_master/district_mst:\n  kind: udise\n")

    assert catalogue.datasets[0].title == "block_master/block_mst"
    assert catalogue.datasets[-1].title == "district_master/district_mst"
    assert len(catalogue.datasets) == len(SHIPPED.datasets)


# A whole header, of which tests spoil one line.
SOUND = """\
new/data:
  kind: master
  headers:
    first:
      columns: a | b
"""


@pytest.mark.parametrize(
    ("text", "line", "key", "message", "remedy"),
    [
        pytest.param(
            "# mine\nnew/data:\n  since: 3.7\n",
            2,
            "new/data.kind",
            "is missing",
            "master, transactional or udise",
            id="no kind",
        ),
        pytest.param(
            "new/data:\n  kind: mastr\n",
            2,
            "new/data.kind",
            "must be master, transactional or udise",
            "did you mean master?",
            id="wrong kind",
        ),
        pytest.param(
            "new/data:\n  kind: [master]\n",
            2,
            "new/data.kind",
            "must be text",
            "write it as one text",
            id="a list",
        ),
        pytest.param(
            SOUND + "  delimeter: x\n",
            6,
            "new/data.delimeter",
            "there is no such key",
            "did you mean delimiter?",
            id="unknown key",
        ),
        pytest.param(
            SOUND + "  zzz: x\n",
            6,
            "new/data.zzz",
            "there is no such key",
            "remove it",
            id="unknown key like none",
        ),
        pytest.param(
            SOUND + "      column: x\n",
            6,
            "new/data.headers.first.column",
            "there is no such key",
            "did you mean columns?",
            id="unknown key of a header",
        ),
        pytest.param(
            SOUND + "  values:\n    int16: a\n",
            7,
            "new/data.values.int16",
            "there is no such key",
            "did you mean int64?",
            id="unknown type",
        ),
        pytest.param(
            SOUND + "  values:\n    int32: a | c!\n",
            7,
            "new/data.values.int32",
            "names c, a column that no header has",
            "correct or remove it",
            id="type of no column",
        ),
        pytest.param(
            SOUND + "  values:\n    int32: a\n    text: A!\n",
            8,
            "new/data.values.text",
            "names A a second time",
            "name each column once",
            id="two types of a column",
        ),
        pytest.param(
            SOUND + "  values:\n    int32: a!x\n",
            7,
            "new/data.values.int32",
            "is no version of cQube",
            'write it like "3.7"',
            id="wrong version of a mark",
        ),
        pytest.param(
            SOUND + "      assumed: maybe\n",
            6,
            "new/data.headers.first.assumed",
            "must be yes or no",
            "correct or remove it",
            id="wrong assumed",
        ),
        pytest.param(
            SOUND + "  delimiter: x\n",
            6,
            "new/data.delimiter",
            "must be one character",
            'write "|"',
            id="a letter as delimiter",
        ),
        pytest.param(
            SOUND + "  kind: udise\n",
            6,
            "new/data.kind",
            "is given twice, on line 2 and line 6",
            "keep one",
            id="duplicate key",
        ),
        pytest.param(
            SOUND + SOUND,
            6,
            "new/data",
            "is given twice, on line 1 and line 6",
            "keep one",
            id="duplicate dataset",
        ),
        pytest.param(
            SOUND + "  delimiter: tab\n",
            6,
            "new/data.delimiter",
            "must be one character",
            '"\\t"',
            id="wide delimiter",
        ),
        pytest.param(
            SOUND + "  delimiter: '\"'\n",
            6,
            "new/data.delimiter",
            "must be one character",
            '"|"',
            id="quote as delimiter",
        ),
        pytest.param(
            SOUND + "  delimiter: |\n",
            6,
            "new/data.delimiter",
            "has no value",
            "in quotes",
            id="unquoted delimiter",
        ),
        pytest.param(
            SOUND + "  since: latest\n",
            6,
            "new/data.since",
            "is no version of cQube",
            "3.7",
            id="wrong version",
        ),
        pytest.param(
            SOUND + "  since: 1.10\n  until: 1.9\n",
            7,
            "new/data.until",
            "must not come before since, which is 1.10",
            "exchange",
            id="no span",
        ),
        pytest.param(
            SOUND + "      since: 4\n",
            6,
            "new/data.headers.first.since",
            "is no version of cQube",
            "3.7",
            id="wrong version of a header",
        ),
        pytest.param(
            SOUND + "      match: name\n",
            6,
            "new/data.headers.first.match",
            "must be sequence, exact, only or names",
            "did you mean names?",
            id="wrong match",
        ),
        pytest.param(
            SOUND + "      variant: private\n",
            6,
            "new/data.headers.first.variant",
            "must be state or udise",
            "correct or remove it",
            id="wrong variant",
        ),
        pytest.param(
            SOUND + "    second:\n      columns: a || b\n",
            7,
            "new/data.headers.second.columns",
            "column 2 of 3 has no name",
            "one |",
            id="empty column",
        ),
        pytest.param(
            SOUND + "    second:\n      columns:\n        a |\n        b |\n",
            7,
            "new/data.headers.second.columns",
            "column 3 of 3 has no name",
            "the end",
            id="empty column at the end",
        ),
        pytest.param(
            "new/data:\n  kind: master\n  keys: b\n  headers:\n    h:\n"
            "      columns: a ||\n      required: b\n",
            6,
            "new/data.headers.h.columns",
            "column 2 of 3 has no name",
            "one |",
            id="empty column, and what depends on it",
        ),
        pytest.param(
            SOUND + "    second:\n      columns: [a, b]\n",
            7,
            "new/data.headers.second.columns",
            "must be text, not a list",
            "one text",
            id="columns in a list",
        ),
        pytest.param(
            SOUND + "    second:\n      match: names\n",
            6,
            "new/data.headers.second.columns",
            "is missing",
            "separated by |",
            id="no columns",
        ),
        pytest.param(
            SOUND + "      required: a | bb\n",
            6,
            "new/data.headers.first.required",
            "names bb, a column that no header has",
            "did you mean b?",
            id="unknown required column",
        ),
        pytest.param(
            SOUND + "  keys: a | scool_id\n    \n",
            6,
            "new/data.keys",
            "names scool_id, a column that no header has",
            "correct",
            id="unknown key column",
        ),
        pytest.param(
            "new/data:\n  kind: master\n  keys: a\n",
            3,
            "new/data.keys",
            "names a, a column that no header has",
            "correct",
            id="key column without a header",
        ),
        pytest.param(
            SOUND + '  dates:\n    a: "%Y-%m-%d"\n    Exam: "%Y-%m-%d"\n',
            8,
            "new/data.dates.Exam",
            "names Exam, a column that no header has",
            "correct",
            id="unknown date column",
        ),
        pytest.param(
            SOUND + "  dates:\n    a: yyyy-MM-dd\n",
            7,
            "new/data.dates.a",
            "must be the form of a date",
            '"%Y-%m-%d"',
            id="date form of another notation",
        ),
        pytest.param(
            SOUND + '  dates:\n    a: "%Y-%m"\n',
            7,
            "new/data.dates.a",
            "must be the form of a date",
            '"%Y-%m-%d"',
            id="date form without day",
        ),
        pytest.param(
            SOUND + '  dates:\n    a: "%Y-%m-%d %"\n',
            7,
            "new/data.dates.a",
            "must be the form of a date",
            '"%Y-%m-%d"',
            id="broken date form",
        ),
        pytest.param(
            SOUND + '  dates:\n    a: "%Y-%m-%d %Y"\n',
            7,
            "new/data.dates.a",
            "must be the form of a date",
            '"%Y-%m-%d"',
            id="date form with the year twice",
        ),
        pytest.param(
            SOUND + "  dates: a\n",
            6,
            "new/data.dates",
            "must be a section of keys",
            "indent",
            id="no section of dates",
        ),
        pytest.param(
            "new/data:\n  kind: master\n  headers: a | b\n",
            3,
            "new/data.headers",
            "must be a section of keys",
            "indent",
            id="no section of headers",
        ),
        pytest.param(
            SOUND + "    second: a | b\n",
            6,
            "new/data.headers.second",
            "must be a section of keys",
            "indent",
            id="no section of a header",
        ),
        pytest.param(
            "pat/periodic_exam_mst:\n",
            1,
            "pat/periodic_exam_mst",
            "must be a section of keys",
            "indent",
            id="nothing about a dataset",
        ),
        pytest.param(
            SOUND + "  since:\n", 6, "new/data.since", "has no value", "give it one", id="no value"
        ),
        *(
            pytest.param(
                f"{title}:\n  kind: master\n",
                1,
                shown,
                "is no dataset",
                "<folder>/<name>",
                id=f"title {shown}",
            )
            for title, shown in [
                ("datasets", "datasets"),
                ("a/b/c", "a/b/c"),
                ("/name", "/name"),
                ("../name", "../name"),
                ("new/data.zip", "new/data.zip"),
                ("new/da ta", "new/da ta"),
                (r'"new/\e[31m\n"', r"new/\x1b[31m\n"),
            ]
        ),
        pytest.param(
            "new/data: &x\n  kind: master\n",
            1,
            "own.yaml",
            "anchors and aliases are not supported",
            "quotes",
            id="an anchor",
        ),
        pytest.param(
            "new/data:\n  kind: 'master\n",
            3,
            "own.yaml",
            "is not valid YAML",
            "correct the line",
            id="no YAML",
        ),
        pytest.param("a: {" * 9999, None, "own.yaml", "nested too deeply", "line", id="too deep"),
        pytest.param("# nothing\n", None, "own.yaml", "holds no dataset", "begin", id="nothing"),
        pytest.param("- new/data\n", 1, "own.yaml", "holds no dataset", "begin", id="a list"),
        pytest.param("#" * 2**20, None, "own.yaml", "has 1 MiB or more", "name", id="too large"),
    ],
)
def test_a_problem_has_key_line_message_and_remedy(
    text: str, line: int | None, key: str, message: str, remedy: str, problems: Problems
) -> None:
    """All of it is printable."""
    (problem,) = problems(text)

    assert (problem.key, problem.line) == (key, line)
    assert message in problem.message
    assert remedy in problem.remedy
    assert f"{problem.message}{problem.remedy}".isprintable()


def test_every_problem_is_reported_at_once_in_file_order(load: Load, tmp_path: Path) -> None:
    """One load reports the problems of all datasets and headers."""
    with pytest.raises(ConfigError) as caught:
        load("""\
one/one:
  knd: master
  since: x
  headers:
    first:
      match: exactly
      required: a
two:
  kind: udise
  kind: master
  delimiter: ",,"
""")

    assert str(caught.value) == f"{tmp_path / 'own.yaml'}: 8 problems"
    assert [(problem.line, problem.key) for problem in caught.value.problems] == [
        (1, "one/one.kind"),
        (2, "one/one.knd"),
        (3, "one/one.since"),
        (5, "one/one.headers.first.columns"),
        (6, "one/one.headers.first.match"),
        (8, "two"),
        (10, "two.kind"),
        (11, "two.delimiter"),
    ]


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    """An absent file, a folder, and what is not UTF-8 are refused with the reason."""
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"new/data:\n  kind: ma\xeftre\n")
    reasons = {}
    for path in (tmp_path / "absent.yaml", tmp_path, latin):
        with pytest.raises(ConfigError) as caught:
            load_catalogue(path)
        (problem,) = caught.value.problems
        assert (caught.value.source, problem.key) == (str(path), path.name)
        reasons[path.name] = (problem.line, problem.message)

    assert reasons == {
        "absent.yaml": (None, "cannot be read: No such file or directory"),
        tmp_path.name: (None, "cannot be read: Is a directory"),
        "latin.yaml": (2, "is not UTF-8 text"),
    }


def test_the_shipped_file_has_the_same_form(tmp_path: Path) -> None:
    """A copy of it over itself changes nothing, so entries can be copied."""
    copy = tmp_path / "copy.yaml"
    copy.write_bytes(files("emitterd.datasets").joinpath("catalogue.yaml").read_bytes())

    assert load_catalogue(copy).datasets == SHIPPED.datasets


def test_the_catalogue_is_the_same_without_libyaml(python: Python, tmp_path: Path) -> None:
    """PyYAML's own parser reads the same."""
    load = """
from emitterd.datasets.catalogue_file import load_catalogue
import yaml
print(yaml.__with_libyaml__, load_catalogue().datasets)
"""
    without = python(f"import sys; sys.modules['yaml._yaml'] = None{load}", cwd=tmp_path)
    usual = python(load, cwd=tmp_path)

    assert without.startswith("False ")
    assert without.partition(" ")[2] == usual.partition(" ")[2]


@pytest.mark.slow
@given(st.text(alphabet="ab/: -\n|[]{}'\"keydtsnirhmcu13.,%", max_size=80))
def test_any_text_is_a_catalogue_or_a_configuration_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    """No file raises anything but `ConfigError`."""
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(f"new/data:\n  kind: master\n  {text}", encoding="utf-8")
    with contextlib.suppress(ConfigError):
        load_catalogue(path)
