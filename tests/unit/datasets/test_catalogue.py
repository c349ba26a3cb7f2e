"""The datasets that the server knows: the user's document, their order, findings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.codes import Code
from emitterd.datasets.catalogue import Catalogue, Dataset, DatasetKind, Version
from emitterd.datasets.catalogue_file import load_catalogue

CATALOGUE = load_catalogue()
DATASETS = {dataset.title: dataset for dataset in CATALOGUE.datasets}
UNREAD = {Code.WRONG_DEPTH, Code.UNKNOWN_FOLDER, Code.UNKNOWN_NAME}

# The two trees of the user's document, "Emission Process".
MASTERS = [
    "block_master/block_mst.zip",
    "cluster_master/cluster_mst.zip",
    "district_master/district_mst.zip",
    "school_master/school_mst.zip",
    "pat/periodic_exam_mst.zip",
    "pat/periodic_exam_qst_mst.zip",
    "diksha/diksha_tpd_mapping.zip",
    "diksha/diksha_api_progress_exhaust_batch_ids.zip",
    "sat/semester_exam_mst.zip",
    "sat/semester_exam_qst_mst.zip",
    "sat/semester_exam_subject_details.zip",
    "school_category/school_category_master.zip",
    "school_management/school_management_master.zip",
    "sat/semester_exam_grade_details.zip",
    "pat/periodic_exam_subject_details.zip",
    "pat/periodic_exam_grade_details.zip",
]
TRANSACTIONS = [
    "student_attendance/student_attendance.zip",
    "teacher_attendance/teacher_attendance.zip",
    "user_location_master/user_location_master.zip",
    "inspection_master/inspection_master.zip",
    "infra_trans/infra_trans.zip",
    "diksha/diksha.zip",
    "pat/periodic_exam_result_trans.zip",
    "sat/semester_exam_result_trans.zip",
]


def rank(path: str) -> int:
    """Return the rank of a path in the shipped catalogue."""
    return CATALOGUE.queue_position(path.encode())[0]


def title(path: bytes) -> str | None:
    """Return the title of the dataset that a path belongs to."""
    dataset = CATALOGUE.dataset(path)
    return dataset.title if dataset is not None else None


@pytest.mark.parametrize("path", MASTERS)
def test_every_master_of_the_document_is_known(path: str) -> None:
    """Each file of the document's first tree is its own dataset, a master."""
    dataset = CATALOGUE.dataset(path.encode())

    assert dataset is not None
    assert f"{dataset.title}.zip" == path
    assert dataset.kind == "master"
    assert CATALOGUE.findings(path.encode()) == []


@pytest.mark.parametrize("path", TRANSACTIONS)
def test_every_transaction_of_the_document_is_known(path: str) -> None:
    """Each file of the document's second tree is its own dataset, transactional."""
    dataset = CATALOGUE.dataset(path.encode())

    assert dataset is not None
    assert f"{dataset.title}.zip" == path
    assert dataset.kind == "transactional"
    assert CATALOGUE.findings(path.encode()) == []


def test_masters_rank_before_transactional_data() -> None:
    """The document's masters all go before the document's transactions."""
    assert max(map(rank, MASTERS)) < min(map(rank, TRANSACTIONS))


def test_kinds_stand_in_one_block_each() -> None:
    """The whole catalogue has masters first, then transactions, then UDISE."""
    kinds = list(dict.fromkeys(dataset.kind for dataset in CATALOGUE.datasets))
    changes = sum(
        before.kind != after.kind
        for before, after in zip(CATALOGUE.datasets, CATALOGUE.datasets[1:], strict=False)
    )

    assert kinds == ["master", "transactional", "udise"]
    assert changes == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("district_master/district_mst.zip", "block_master/block_mst.zip"),
        ("block_master/block_mst.zip", "cluster_master/cluster_mst.zip"),
        ("cluster_master/cluster_mst.zip", "school_master/school_mst.zip"),
        ("pat/periodic_exam_grade_details.zip", "pat/periodic_exam_mst.zip"),
        ("pat/periodic_exam_subject_details.zip", "pat/periodic_exam_mst.zip"),
        ("pat/periodic_exam_mst.zip", "pat/periodic_exam_qst_mst.zip"),
        ("pat/periodic_exam_qst_mst.zip", "pat/periodic_exam_result_trans.zip"),
        ("sat/semester_exam_mst.zip", "sat/semester_exam_qst_mst.zip"),
        ("sat/semester_exam_qst_mst.zip", "sat/semester_exam_result_trans.zip"),
        ("diksha/diksha_tpd_mapping.zip", "diksha/diksha.zip"),
        (
            "inspection_master/inspection_master.zip",
            "user_location_master/user_location_master.zip",
        ),
        ("pat/periodic_exam_result_trans.zip", "udise/sch_profile.zip"),
        ("udise/sch_profile.zip", "unknown/x.zip"),
    ],
)
def test_what_others_refer_to_goes_first(first: str, second: str) -> None:
    """The server looks referenced rows up, so they must be there before."""
    assert rank(first) < rank(second)


@pytest.mark.parametrize(
    ("path", "dataset"),
    [
        (b"diksha/diksha.zip", "diksha/diksha"),
        (b"diksha/diksha_2021.zip", "diksha/diksha"),
        (b"diksha/diksha_tpd_mapping_2021.zip", "diksha/diksha_tpd_mapping"),
        (b"pat/periodic_exam_mst_2021-01.zip", "pat/periodic_exam_mst"),
        (b"pat/periodic_exam_qst_mst_1.zip", "pat/periodic_exam_qst_mst"),
        (b"diksha_enrolment/diksha_enrolment.zip", "diksha_enrolment/diksha_enrolment"),
        (b"configure_datasource/anything.zip", "configure_datasource/"),
        (b"block_master/block_mst_\xff.zip", "block_master/block_mst"),
    ],
)
def test_the_longest_prefix_names_the_dataset(path: bytes, dataset: str) -> None:
    """A file belongs to the longest name that its base name begins with."""
    assert title(path) == dataset


def test_the_order_of_the_rows_does_not_decide_the_dataset() -> None:
    """The longest name wins wherever it stands in the catalogue."""
    datasets = [
        Dataset("diksha", name, DatasetKind.MASTER, rank=0)
        for name in ("diksha_tpd", "diksha", "diksha_tpd_mapping")
    ]
    for ordered in (datasets, datasets[::-1]):
        dataset = Catalogue(ordered).dataset(b"diksha/diksha_tpd_mapping.zip")
        assert dataset is not None
        assert dataset.name == "diksha_tpd_mapping"


@pytest.mark.parametrize(
    ("path", "code", "expected"),
    [
        pytest.param(b"schools/x.zip", "E221", "folder 'schools'", id="folder"),
        pytest.param(b"PAT/periodic_exam_mst.zip", "E221", "folder 'PAT'", id="case"),
        pytest.param(b"caf\xe9/x.zip", "E221", r"folder 'caf\xe9'", id="not UTF-8"),
        pytest.param(b"a\nb/x.zip", "E221", r"'a\nb'", id="newline"),
        pytest.param(b"pat/2021/x.zip", "E220", "2 folders deep", id="extra level"),
        pytest.param(b"pat/2021/periodic_exam_mst.zip", "E220", "2 folders", id="level"),
        pytest.param(b"periodic_exam_mst.zip", "E220", "0 folders deep", id="no folder"),
        pytest.param(b"pat/semester_exam_mst.zip", "E222", "folder 'pat'", id="name"),
        pytest.param(b"pat/exam.zip", "E222", "periodic_exam_mst….zip", id="known names"),
        pytest.param(b"block_master/mst.zip", "E222", "block_mst….zip", id="the one"),
        pytest.param(b"pat/periodic.exam_mst.zip", "E222", "'periodic.exam", id="dot"),
    ],
)
def test_what_the_server_would_not_process_is_found(path: bytes, code: str, expected: str) -> None:
    """The finding says what is wrong, and what the server would read instead."""
    (finding,) = CATALOGUE.findings(path)

    assert finding.code == code
    assert expected in str(finding)
    assert str(finding).isprintable()
    assert CATALOGUE.dataset(path) is None


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        (b"PAT/x.zip", "pat"),
        (b"teacher_attendence/x.zip", "teacher_attendance"),
        (b"schools/school_mst.zip", "school_master"),
        (b"PAT/semester_exam_mst.zip", "sat"),
        (b"school_master/school_mast.zip", "school_mst"),
        (b"school_master/SCHOOL_MST_2021.zip", "school_mst"),
        (b"pat/semester_exam_mst_2021.zip", "folder sat"),
        (b"udise/sch_safty.2021.zip", "sch_safety"),
        (b"xyz/x.zip", None),
        (b"block_master/x.zip", None),
    ],
)
def test_a_slip_gets_a_suggestion(path: bytes, meant: str | None) -> None:
    """A name that is nearly right, or right elsewhere, is asked about."""
    (finding,) = CATALOGUE.findings(path)
    _, asked, suggestion = finding.expected.partition("did you mean ")

    assert bool(asked) == (meant is not None)
    assert suggestion == (f"{meant}?)" if meant else "")


def test_the_likest_names_of_a_large_folder_are_listed() -> None:
    """Of the 32 names of UDISE five are listed, the most similar first."""
    (finding,) = CATALOGUE.findings(b"udise/sch_exmres_c9.zip")

    assert finding.expected.count("….zip") == 5
    assert finding.expected.startswith("sch_exmres_c")


@pytest.mark.parametrize("base", ["block_mst.ZIP", "block_mst.csv", "block_mst.zip "])
def test_an_ending_that_the_server_does_not_take_is_found(base: str) -> None:
    """The dataset is known, and still the server would delete the file."""
    path = f"block_master/{base}".encode()
    (finding,) = CATALOGUE.findings(path)

    assert (finding.code, finding.found) == (Code.WRONG_ENDING, f"'{base}'")
    assert title(path) == "block_master/block_mst"


def test_a_path_may_be_wrong_in_two_ways() -> None:
    """Both findings are reported at once."""
    codes = [finding.code for finding in CATALOGUE.findings(b"nowhere/x.ZIP")]
    assert codes == [Code.UNKNOWN_FOLDER, Code.WRONG_ENDING]


@pytest.mark.parametrize(
    ("path", "version", "found"),
    [
        ("teacher_attendance/teacher_attendance.zip", "1.8", True),
        ("teacher_attendance/teacher_attendance.zip", "1.9", False),
        ("teacher_attendance/teacher_attendance.zip", "1.10", False),
        ("semester/semester.zip", "2.0", False),
        ("semester/semester.zip", "3.0", True),
        ("diksha/diksha_2021.zip", "1.2", False),
        ("diksha/diksha_2021.zip", "1.12", True),
        ("diksha/diksha_2021.zip", None, False),
        ("student_attendance/StudentAttendance.zip", "1.0", False),
        ("student_attendance/StudentAttendance.zip", "4.1", True),
        ("school_master/school_mst.zip", "5.0", False),
    ],
)
def test_what_a_version_does_not_read_is_found(
    path: str, version: str | None, *, found: bool
) -> None:
    """An unknown version reads every dataset; a known one only its own."""
    findings = CATALOGUE.findings(path.encode(), Version.parse(version) if version else None)
    assert [finding.code for finding in findings] == [Code.OTHER_VERSION] * found


def test_a_version_takes_a_path_for_what_it_reads() -> None:
    """A longer name that came later does not count for an earlier version."""
    path = b"diksha/diksha_data_summary.zip"
    early = CATALOGUE.dataset(path, Version(1, 3))
    late = CATALOGUE.dataset(path, Version(4, 1))

    assert early is DATASETS["diksha/diksha"]
    assert late is DATASETS["diksha/diksha_data_summary"]
    assert CATALOGUE.findings(path, Version(1, 3)) == []


@pytest.mark.parametrize(
    ("base", "titles"),
    [
        ("diksha_tpd_mapping_1.zip", ["diksha/diksha_tpd_mapping"]),
        ("diksha_enrolment.csv", ["diksha_enrolment/diksha_enrolment"]),
        ("sch_profile", ["udise/sch_profile"]),
        ("Sch_profile.zip", []),
        ("holidays.zip", []),
        ("", []),
    ],
)
def test_a_name_alone_is_a_guess(base: str, titles: list[str]) -> None:
    """Outside its folder a file is guessed by the longest name it begins with."""
    assert [dataset.title for dataset in CATALOGUE.guess(base)] == titles


def test_a_guess_may_be_of_several_folders() -> None:
    """Two datasets of one name are both meant; one that takes any name never is."""
    datasets = [
        Dataset(folder, name, DatasetKind.MASTER, rank=0)
        for folder, name in [("a", "x"), ("b", "xy"), ("c", "xy"), ("d", "")]
    ]
    guessed = Catalogue(datasets).guess("xyz.zip")

    assert [dataset.title for dataset in guessed] == ["b/xy", "c/xy"]


def test_others_replace_in_place_or_follow_their_kind() -> None:
    """The same title keeps its place; what is new, or of another kind, goes last."""
    first, last = DatasetKind.MASTER, DatasetKind.UDISE
    old = [("a/a", first), ("b/b", first), ("c/c", DatasetKind.TRANSACTIONAL), ("d/d", last)]
    new = [("b/b", first), ("c/c", last), ("z/z", first), ("y/y", first)]
    catalogue = Catalogue(made(*item) for item in old)

    merged = catalogue.with_others(made(*item, delimiter=";") for item in new)

    reported = [f"{dataset.title}{dataset.delimiter}{dataset.kind}" for dataset in merged.datasets]
    assert reported == [
        *("a/a|master", "b/b;master", "z/z;master", "y/y;master"),
        *("d/d|udise", "c/c;udise"),
    ]
    assert [dataset.rank for dataset in merged.datasets] == list(range(6))
    assert [dataset.title for dataset in catalogue.datasets] == ["a/a", "b/b", "c/c", "d/d"]


def made(title: str, kind: DatasetKind, delimiter: str = "|") -> Dataset:
    """Make a dataset of a title."""
    folder, _, name = title.partition("/")
    return Dataset(folder, name, kind, rank=0, delimiter=delimiter)


@pytest.mark.parametrize(
    ("path", "flow"),
    [
        (b"pat/periodic_exam_mst_1.zip", "pat/periodic_exam_mst"),
        (b"pat/odd.zip", "/pat"),
        (b"pat/2021/x.zip", "/pat/2021"),
        (b"pat/periodic_exam_mst/x.zip", "/pat/periodic_exam_mst"),
        (b"x.zip", "/"),
        (b"caf\xe9/x.zip", r"/caf\xe9"),
    ],
)
def test_each_dataset_and_each_unknown_folder_is_a_flow(path: bytes, flow: str) -> None:
    """Each dataset has its own flow."""
    assert CATALOGUE.queue_position(path)[1] == flow


def test_rank_is_the_place_in_the_catalogue() -> None:
    """Datasets rank in the order of the file; unknown ones come last."""
    ranks = [dataset.rank for dataset in CATALOGUE.datasets]

    assert ranks == list(range(len(CATALOGUE.datasets)))
    assert rank("nowhere/x.zip") == len(CATALOGUE.datasets)


def test_no_dataset_stands_twice() -> None:
    """Folder and name are unique, or one of two rows would never be reached."""
    titles = [dataset.title for dataset in CATALOGUE.datasets]
    assert sorted(set(titles)) == sorted(titles)


@given(st.binary(max_size=30))
def test_every_path_has_a_place(path: bytes) -> None:
    """A path has a dataset or a finding, never both."""
    codes = {finding.code for finding in CATALOGUE.findings(path)}

    assert (CATALOGUE.dataset(path) is None) == bool(codes & UNREAD)
    assert (Code.WRONG_ENDING in codes) != path.endswith(b".zip")
    assert 0 <= CATALOGUE.queue_position(path)[0] <= len(CATALOGUE.datasets)
