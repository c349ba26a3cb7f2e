"""`emitter.yaml`: what is accepted, what is refused, and how it is reported."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from emitterd.config import settings as config
from emitterd.config import sources as config_layers
from emitterd.errors import ConfigError, Problem

SECRET = "correct-horse-battery"
GOOD = """\
emission:
  url: https://cqube.example.org/data
  username: emission
  password_file: password
spool:
  directory: drop
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write emitter.yaml beside a drop folder and a good password file."""
    (tmp_path / "drop").mkdir()
    (tmp_path / "password").write_text(f"{SECRET}\n")
    (tmp_path / "password").chmod(0o600)

    def to_file(text: str) -> Path:
        path = tmp_path / "emitter.yaml"
        path.write_text(text)
        path.chmod(0o644)
        return path

    return to_file


def problems(path: Path, environ: Mapping[str, str] | None = None) -> list[Problem]:
    """Return what loading reports."""
    with pytest.raises(ConfigError) as caught:
        config.load(path, environ or {})
    assert SECRET not in repr(caught.value.problems)
    return caught.value.problems


def only(path: Path, environ: Mapping[str, str] | None = None) -> Problem:
    """Return the one problem that loading reports."""
    (problem,) = problems(path, environ)
    return problem


def test_the_smallest_file_has_every_default(write: Write, tmp_path: Path) -> None:
    """A URL, credentials and a folder suffice; paths start at the file's folder."""
    path = write(GOOD)
    loaded = config.load(path, {})
    assert loaded.source == path
    assert loaded.emission.url == "https://cqube.example.org/data"
    assert loaded.emission.password is not None
    assert loaded.emission.password.reveal() == SECRET
    assert loaded.emission.api_key is None
    assert loaded.emission.connect_timeout_s == 10
    assert loaded.emission.minimum_speed_bytes == 1024
    assert loaded.spool.directory == tmp_path / "drop"
    assert loaded.spool.include == ("**/*.zip",)
    assert loaded.spool.incomplete_after_s == 600
    assert loaded.journal.path == Path("/var/lib/emitterd/journal.db")
    assert loaded.journal.retain_s == 400 * 86400
    assert loaded.delivery.workers == "auto"
    assert loaded.log.file is None
    assert loaded.web.listen is None


def test_values_are_read(write: Write) -> None:
    """Every kind of value gets its own type and unit."""
    text = GOOD + "  catalogue: off\n  settle: 500ms\n  exclude: [old/, '!keep.zip']\n"
    text += "delivery: {workers: 64}\nlog:\nmetrics:\n"
    loaded = config.load(write(text), {})
    assert loaded.spool.catalogue == "off"
    assert loaded.spool.settle_s == 0.5
    assert loaded.spool.exclude == ("old/", "!keep.zip")
    assert loaded.delivery.workers == 64


@pytest.mark.parametrize(
    ("given", "below"),
    [("a/b", "{base}/a/b"), ("/a", "/a"), ("~/a", "{base}/~/a")],
    ids=["relative", "absolute", "tilde"],
)
def test_a_relative_path_starts_at_the_folder_of_the_file(
    write: Write, tmp_path: Path, given: str, below: str
) -> None:
    """An absolute path stays, and a tilde is not expanded."""
    loaded = config.load(write(f"{GOOD}log: {{file: {given}}}\n"), {})
    assert loaded.log.file == Path(below.format(base=tmp_path))


def test_every_problem_is_reported_at_once_in_file_order(write: Write) -> None:
    """One load reports each wrong key with its line; missing keys come last."""
    path = write("""\
emission:
  url: cqube.example.org
  allow_insecure_http: yes
  usrname: emission
spool:
  settle: 5
  watcher: fanotify
  settle: 6s
delivery:
  workers: 65
  backoff_max: 1s
surprise: 1
""")
    reported = problems(path)
    assert [(p.key, p.line) for p in reported] == [
        ("emission.url", 2),
        ("emission.allow_insecure_http", 3),
        ("emission.usrname", 4),
        ("spool.settle", 6),
        ("spool.watcher", 7),
        ("spool.settle", 8),
        ("delivery.workers", 10),
        ("delivery.backoff_max", 11),
        ("surprise", 12),
        ("spool.directory", None),
        ("emission.username", None),
    ]
    assert all(p.message and p.remedy for p in reported)
    assert reported[2].remedy == "did you mean emission.username?"
    assert reported[3].remedy == "write it like 500ms, 5s, 10m, 2h or 400d"
    assert reported[5].message == "is given twice, on line 6 and line 8"


@pytest.mark.parametrize(
    ("line", "key", "message"),
    [
        ("  settle: fast", "spool.settle", "is not a duration"),
        ("  settle: 0s", "spool.settle", "is too short"),
        ("  settle: true", "spool.settle", "is not a duration"),
        ("  settle:", "spool.settle", "has no value"),
        ("  archive_directory: null", "spool.archive_directory", "has no value"),
        ("  settle: {a: 1}", "spool.settle", "must be a value, not a section"),
        ("  include: [[a]]", "spool.include", "must be text, not a list"),
        ("  include: []", "spool.include", "is empty: nothing would be sent"),
        ("  exclude: ['!']", "spool.exclude", "holds a malformed pattern"),
        ("  exclude: ['[z-a]']", "spool.exclude", "holds a malformed pattern"),
        ("  catalogue: no", "spool.catalogue", "must be off, warn or enforce"),
        ("  setle: 5s", "spool.setle", "there is no such key"),
        ("  archive_directory: [5]", "spool.archive_directory", "is no path"),
        ('  archive_directory: "\\0"', "spool.archive_directory", "is no path"),
        ('  cqube_version: "new"', "spool.cqube_version", "is no version of cQube"),
        ("  static_datasource: x", "spool.static_datasource", "must be state or"),
        ("  inspection_budget: 5", "spool.inspection_budget", "without a unit"),
        ("  catalogue_file: no", "spool.catalogue_file", "is not a file"),
        ("web: {listen: ':9464'}", "web.listen", "is no host and port"),
        ("web: {listen: 9464}", "web.listen", "is no host and port"),
        ("web: {listen: 'unix:x'}", "web.listen", "must give the whole path"),
        (
            "web: {listen: '192.0.2.1:9464'}",
            "web.listen",
            "can be reached from other machines, and no token guards it",
        ),
        ("web: {token_file: no}", "web.token_file", "cannot be read"),
        (
            "web: {client_address_header: X-Real-IP}",
            "web.client_address_header",
            "is for a proxy, and none is named",
        ),
        (
            "web: {client_address_header: 'X Real IP'}",
            "web.client_address_header",
            "must be the name of a header",
        ),
        ("alerts: {no_success_max: 5}", "alerts.no_success_max", "without a unit"),
        ("delivery: {workers: 8.0}", "delivery.workers", "must be a whole number"),
        ("delivery: {workers: true}", "delivery.workers", "must be a whole number"),
        ("delivery: {workers: 0}", "delivery.workers", "is too small"),
        ("delivery: 8", "delivery", "must be a section of keys"),
        ("delivery: [8]", "delivery", "must be a section of keys"),
        ("log: {level: INFO}", "log.level", "must be debug, info, warning or error"),
        ("log: {file: drop}", "log.file", "is a folder"),
        ("log: {on: 1}", "log.on", "there is no such key"),
        ("journal: {path: .}", "journal.path", "is a folder"),
        ("journal: {path: drop/a/j.db}", "journal.path", "is in the watched"),
        ("workers: 8", "workers", "there is no such key"),
        ("spool: {}", "spool", "is given twice, on line 5 and line 7"),
        (
            "delivery: {backoff_initial: 2h}",
            "delivery.backoff_initial",
            "backoff_initial is longer than backoff_max",
        ),
    ],
)
def test_a_wrong_line_is_one_problem(write: Write, line: str, key: str, message: str) -> None:
    """A wrong line in a good file is reported once, by key, line and reason."""
    problem = only(write(f"{GOOD}{line}\n"))
    assert (problem.key, problem.line) == (key, 7)
    assert message in problem.message
    assert problem.remedy


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"https://u:{SECRET}@host/data", "must not carry a user name"),
        ("http://cqube.example.org", "is http://"),
        ("[a]", "must be text"),
    ],
)
def test_a_wrong_url_is_refused(write: Write, url: str, message: str) -> None:
    """A URL with a secret in it, or without encryption, is reported with its line."""
    problem = only(write(GOOD.replace("https://cqube.example.org/data", url)))
    assert (problem.key, problem.line) == ("emission.url", 2)
    assert message in problem.message


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "is empty"),
        ("# nothing\n---\n", None, "is empty"),
        ("- a\n", 1, "is no mapping of sections"),
        ("just text", 1, "is no mapping of sections"),
        ("spool:\n\tdirectory: x\n", 2, "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_one_problem(
    write: Write, text: str, line: int | None, message: str
) -> None:
    """A file without sections is reported with its name and the line."""
    problem = only(write(text))
    assert (problem.key, problem.line) == ("emitter.yaml", line)
    assert message in problem.message


def test_a_file_that_is_not_utf8_is_refused(write: Write) -> None:
    """The problem has the line of the first wrong byte."""
    path = write("")
    path.write_bytes(b"spool:\n  directory: \xff\n")
    assert only(path).line == 2


def test_a_folder_for_a_file_is_refused(tmp_path: Path) -> None:
    """A configuration that cannot be read is a problem, not a traceback."""
    assert "cannot be read" in only(tmp_path).message


def test_a_key_is_suggested_from_another_section(write: Write) -> None:
    """The remedy names the right section."""
    assert only(write(f"{GOOD}  workers: 8\n")).remedy == "did you mean delivery.workers?"
    assert only(write(f"{GOOD}spol: 8\n")).remedy == "did you mean spool?"


def test_a_path_of_a_key_is_to_be_written_as_a_section_and_a_key(write: Write) -> None:
    """The documents name keys by their paths, and people write them so."""
    problem = only(write(f"{GOOD}web.listen: 127.0.0.1:9464\n"))

    assert problem.key == "web.listen"
    assert problem.line
    remedy = "write two lines: web: and below it, indented by two spaces, listen:"
    assert problem.remedy == remedy


def test_a_watched_folder_must_exist(write: Write, tmp_path: Path) -> None:
    """For a missing folder the remedy is a command. A file is not a folder."""
    (tmp_path / "drop").rmdir()
    problem = only(write(GOOD))
    assert problem.remedy == f"create it with: mkdir -p {tmp_path}/drop"
    (tmp_path / "drop").touch()
    assert "is not a folder" in only(write(GOOD)).message


def test_an_archive_is_needed_to_archive(write: Write) -> None:
    """`after_delivery: archive` without `archive_directory` is refused."""
    problem = only(write(f"{GOOD}  after_delivery: archive\n"))
    assert (problem.key, problem.line) == ("spool.archive_directory", None)


def test_an_archive_in_the_watched_folder_must_be_excluded(write: Write) -> None:
    """The proposed remedy is accepted; so is a hidden folder."""
    text = f"{GOOD}  archive_directory: drop/done\n"
    problem = only(write(text))
    assert problem.key == "spool.archive_directory"
    assert '"/done/**"' in problem.remedy
    config.load(write(f'{text}  exclude: ["/done/**"]\n'), {})
    config.load(write(text.replace("done", ".done")), {})
    config.load(write(text.replace("drop/done", "done")), {})
    itself = only(write(text.replace("drop/done", "drop/../drop")))
    assert itself.message == "is the watched folder itself"


def test_files_that_the_configuration_names_must_exist(write: Write, tmp_path: Path) -> None:
    """Each missing file is a problem; a client key needs its certificate."""
    (tmp_path / "ca.pem").mkdir()
    keys = "  client_key: a.key\n  ca_file: ca.pem\nspool"
    reported = problems(write(GOOD.replace("spool", keys, 1)))
    assert [(p.key, p.line) for p in reported] == [
        ("emission.client_key", 5),
        ("emission.client_key", 5),
        ("emission.ca_file", 6),
    ]
    assert "without client_cert" in reported[0].message
    assert "is not a file" in reported[1].message
    assert "is not a file" in reported[2].message


def test_the_environment_overrides_the_file(write: Write, tmp_path: Path) -> None:
    """Variables have the same texts as the file; lists are separated by commas."""
    environ = {
        "EMITTERD_DELIVERY_WORKERS": "3",
        "EMITTERD_EMISSION_ALLOW_INSECURE_HTTP": "true",
        "EMITTERD_EMISSION_URL": "http://h:8000/data//",
        "EMITTERD_SPOOL_DIRECTORY": str(tmp_path),
        "EMITTERD_SPOOL_EXCLUDE": "old/, *.bak",
        "EMITTERD_SPOOL_SETTLE": "1m",
        "EMITTERD_CONFIG": "ignored",
        "EMITTERD_OTHER_THING": "ignored",
        "PATH": "ignored",
    }
    loaded = config.load(write(GOOD + "  settle: 7\n"), environ)
    assert loaded.delivery.workers == 3
    assert loaded.emission.url == "http://h:8000/data"
    assert loaded.spool.directory == tmp_path
    assert loaded.spool.exclude == ("old/", "*.bak")
    assert loaded.spool.settle_s == 60


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("EMITTERD_SPOOL_SETTEL", "5s", "did you mean EMITTERD_SPOOL_SETTLE?"),
        ("EMITTERD_SPOOL_settle", "5s", "did you mean EMITTERD_SPOOL_SETTLE?"),
        ("EMITTERD_SPOOL_", "5s", "remove it"),
        ("EMITTERD_SPOOL_SETTLE", "5", "write it like 500ms, 5s, 10m, 2h or 400d"),
        ("EMITTERD_SPOOL_SETTLE", "", "give it one, in quotes if it begins with #, or remove it"),
        ("EMITTERD_DELIVERY_WORKERS", "0", "write 1 to 64"),
        ("EMITTERD_DELIVERY_WORKERS", "two", "write it in digits; or auto"),
        ("EMITTERD_EMISSION_ALLOW_INSECURE_HTTP", "yes", "write one of these words"),
    ],
)
def test_a_wrong_variable_is_reported_by_its_name(
    write: Write, name: str, value: str, remedy: str
) -> None:
    """The problem has the variable's name instead of the key and no line."""
    problem = only(write(GOOD), {name: value})
    assert (problem.key, problem.line) == (name, None)
    assert problem.remedy == remedy


def test_the_configuration_file_is_searched_in_its_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A named file is not replaced by another; else the working folder's is used."""
    monkeypatch.chdir(tmp_path)
    variables = {"EMITTERD_CONFIG": str(tmp_path / "b.yaml")}
    with pytest.raises(ConfigError) as caught:
        config_layers.find(None, variables)
    assert caught.value.problems[0].key == "EMITTERD_CONFIG"
    with pytest.raises(ConfigError) as caught:
        config_layers.find(Path("a.yaml"), {})
    assert "a.yaml" in caught.value.problems[0].message
    for name in ("a.yaml", "b.yaml", "emitter.yaml"):
        (tmp_path / name).touch()
    assert config_layers.find(Path("a.yaml"), variables) == Path("a.yaml")
    assert config_layers.find(None, variables) == tmp_path / "b.yaml"
    assert config_layers.find(None, {"EMITTERD_CONFIG": ""}) == Path("emitter.yaml")


def test_describe_gives_every_key_and_no_secret(write: Write) -> None:
    """Values are written as in the file, and secrets as asterisks."""
    environ = {"EMITTERD_EMISSION_PROXY": f"http://u:{SECRET}@proxy:3128/"}
    loaded = config.load(write(GOOD), environ)
    described = dict(config.describe(loaded))
    assert described["emission.password"] == "********"
    assert described["emission.proxy"] == "********"
    assert described["emission.api_key"] == "not set"
    assert described["emission.minimum_speed"] == "1KiB"
    assert described["spool.include"] == "**/*.zip"
    assert described["spool.exclude"] == "none"
    assert described["journal.retain"] == "400d"
    assert described["emission.allow_insecure_http"] == "false"
    assert list(described) == [f"{section}.{key}" for section, key, _ in config.every_key()]
    assert SECRET not in repr(described) + repr(loaded) + str(loaded)


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (f"{SECRET}\n", 0o644, "everybody may read"),
        ("short\n", 0o600, "which can be guessed"),
        ("\n", 0o600, "holds an empty secret"),
    ],
    ids=["public", "short", "empty"],
)
def test_a_weak_or_public_token_is_refused(
    write: Write, tmp_path: Path, content: str, mode: int, message: str
) -> None:
    """It must be private and long enough not to be guessed."""
    path = write(f"{GOOD}web: {{listen: '192.0.2.1:1', token_file: token}}\n")
    (tmp_path / "token").write_text(content)
    (tmp_path / "token").chmod(mode)
    problem = only(path)

    assert problem.key == "web.token_file"
    assert message in problem.message
    assert problem.remedy


def test_with_a_token_any_address_is_accepted(write: Write, tmp_path: Path) -> None:
    """The limits of the alarms are in seconds."""
    text = "web: {listen: '192.0.2.1:1', token_file: token}\nalerts: {no_success_max: 2h}"
    path = write(f"{GOOD}{text}\n")
    (tmp_path / "token").write_text(SECRET)
    (tmp_path / "token").chmod(0o600)
    loaded = config.load(path, {})

    assert str(loaded.web.listen) == "192.0.2.1:1"
    assert loaded.alarm_limits.no_success_s == 7200.0
    assert loaded.alarm_limits.oldest_waiting_s == 3600.0


def test_expected_files_are_durations_by_dataset_or_folder(write: Write, tmp_path: Path) -> None:
    """The environment replaces the mapping; the user's catalogue has datasets too."""
    (tmp_path / "more.yaml").write_text("labs/lab:\n  kind: master\n")
    text = f"{GOOD}  catalogue_file: more.yaml\ndatasets:\n  expect: {{pat: 35d, labs/lab: 1d}}\n"
    path = write(text)
    (pat, lab) = config.load(path, {}).datasets.expect
    (sat,) = config.load(path, {"EMITTERD_DATASETS_EXPECT": "sat: 2h"}).datasets.expect

    assert (str(pat), str(lab), str(sat)) == ("pat: 35d", "labs/lab: 1d", "sat: 2h")


@pytest.mark.parametrize(
    ("entry", "key", "message", "remedy"),
    [
        ("pad: 1d", "pad", "no such dataset or folder", "did you mean pat?"),
        (
            "periodic_exam_mst: 1d",
            "periodic_exam_mst",
            "no such dataset or folder",
            "did you mean pat/periodic_exam_mst?",
        ),
        ("zzz: 1d", "zzz", "no such dataset or folder", "write one of docs/catalogue.md"),
        ("pat/periodic_exam_mst: 5", "pat/periodic_exam_mst", "without a unit", "like 500ms"),
        ("pat: 0s", "pat", "is too short", "more than 0s"),
        ("pat: {every: 1d}", "pat", "must be text", ""),
        ("pat:", "pat", "is not a duration", "like 500ms"),
    ],
)
def test_a_wrong_expectation_has_its_line_and_a_remedy(
    write: Write, entry: str, key: str, message: str, remedy: str
) -> None:
    """An unknown dataset gets a suggestion, and a wrong duration an example."""
    problem = only(write(f"{GOOD}datasets:\n  expect:\n    sat: 1d\n    {entry}\n"))

    assert problem.key == f"datasets.expect.{key}"
    assert problem.line == len(GOOD.splitlines()) + 4
    assert message in problem.message
    assert remedy in problem.remedy


@pytest.mark.parametrize("value", ["soon", "[pat]"])
def test_expected_files_are_a_mapping(write: Write, value: str) -> None:
    """Anything else is an error that shows the form."""
    problem = only(write(f"{GOOD}datasets:\n  expect: {value}\n"))

    assert (problem.key, problem.message) == ("datasets.expect", "must be a mapping")


def test_the_keys_of_the_former_section_are_named_with_their_new_places(write: Write) -> None:
    """Each key of `metrics`, in the file or in the environment, is an error with its new name."""
    path = write(f"{GOOD}metrics:\n  listen: 127.0.0.1:1\n  port: 1\n  no_success_max: 2h\n")
    with pytest.raises(ConfigError) as caught:
        config.load(path, {"EMITTERD_METRICS_TOKEN_FILE": "/token"})

    problems = caught.value.problems
    assert {problem.message for problem in problems} == {
        "the sections web and alerts replace metrics"
    }
    assert [(problem.key, problem.remedy) for problem in problems] == [
        ("metrics.listen", "write web.listen instead"),
        ("metrics.port", "remove it"),
        ("metrics.no_success_max", "write alerts.no_success_max instead"),
        ("EMITTERD_METRICS_TOKEN_FILE", "write EMITTERD_WEB_TOKEN_FILE instead"),
    ]
