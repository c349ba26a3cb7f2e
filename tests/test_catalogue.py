"""The datasets that the server knows: the user's document, their order, findings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.assembly import load_catalogue
from emitterd.catalogue import Catalogue

CATALOGUE = load_catalogue()

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
    return CATALOGUE.place(path.encode()).rank


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
    assert CATALOGUE.finding(path.encode()) is None


@pytest.mark.parametrize("path", TRANSACTIONS)
def test_every_transaction_of_the_document_is_known(path: str) -> None:
    """Each file of the document's second tree is its own dataset, transactional."""
    dataset = CATALOGUE.dataset(path.encode())

    assert dataset is not None
    assert f"{dataset.title}.zip" == path
    assert dataset.kind == "transactional"
    assert CATALOGUE.finding(path.encode()) is None


def test_masters_rank_before_transactional_data() -> None:
    """The document's masters all go before the document's transactions."""
    assert max(map(rank, MASTERS)) < min(map(rank, TRANSACTIONS))


def test_kinds_stand_in_one_block_each() -> None:
    """The whole catalogue has masters first, then transactions, then UDISE."""
    kinds = list(dict.fromkeys(dataset.kind for dataset in CATALOGUE.datasets))
    changes = sum(
        before.kind != after.kind
        for before, after in zip(
            CATALOGUE.datasets, CATALOGUE.datasets[1:], strict=False
        )
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
    rows = [
        {"folder": "diksha", "name": name, "kind": "master"}
        for name in ("diksha_tpd", "diksha", "diksha_tpd_mapping")
    ]
    for ordered in (rows, rows[::-1]):
        dataset = Catalogue(ordered).dataset(b"diksha/diksha_tpd_mapping.zip")
        assert dataset is not None
        assert dataset.name == "diksha_tpd_mapping"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        pytest.param(b"schools/x.zip", "no dataset folder 'schools'", id="folder"),
        pytest.param(b"PAT/periodic_exam_mst.zip", "folder 'PAT'", id="case"),
        pytest.param(b"caf\xe9/x.zip", "no dataset folder", id="not UTF-8"),
        pytest.param(b"a\nb/x.zip", r"'a\nb'", id="newline"),
        pytest.param(b"pat/2021/x.zip", "2 folders deep", id="extra level"),
        pytest.param(b"pat/2021/periodic_exam_mst.zip", "2 folders deep", id="level"),
        pytest.param(b"periodic_exam_mst.zip", "0 folders deep", id="no folder"),
        pytest.param(b"pat/semester_exam_mst.zip", "no file of 'pat'", id="name"),
        pytest.param(b"pat/exam.zip", "periodic_exam_mst….zip", id="known names"),
        pytest.param(b"block_master/mst.zip", "block_mst….zip", id="the one name"),
    ],
)
def test_what_the_server_would_not_process_is_found(path: bytes, said: str) -> None:
    """The finding says what is wrong, and what the server would read instead."""
    finding = CATALOGUE.finding(path)

    assert finding is not None
    assert said in finding
    assert CATALOGUE.dataset(path) is None


@pytest.mark.parametrize(
    ("path", "flow"),
    [
        (b"pat/periodic_exam_mst_1.zip", "pat/periodic_exam_mst"),
        (b"pat/odd.zip", "pat"),
        (b"pat/2021/x.zip", "pat/2021"),
        (b"x.zip", ""),
        (b"caf\xe9/x.zip", r"caf\xe9"),
    ],
)
def test_each_dataset_and_each_unknown_folder_is_a_flow(path: bytes, flow: str) -> None:
    """One producer's backlog is kept apart from the others'."""
    assert CATALOGUE.place(path).flow == flow


def test_rank_is_the_place_in_the_catalogue() -> None:
    """Datasets rank as they stand in the file; what is unknown comes last."""
    ranks = [dataset.rank for dataset in CATALOGUE.datasets]

    assert ranks == list(range(len(CATALOGUE.datasets)))
    assert rank("nowhere/x.zip") == len(CATALOGUE.datasets)


def test_no_dataset_stands_twice() -> None:
    """Folder and name are unique, or one of two rows would never be reached."""
    titles = [dataset.title for dataset in CATALOGUE.datasets]
    assert sorted(set(titles)) == sorted(titles)


@given(st.binary(max_size=30))
def test_every_path_has_a_place(path: bytes) -> None:
    """A path is a dataset or there is a finding, and never both."""
    assert (CATALOGUE.dataset(path) is None) == (CATALOGUE.finding(path) is not None)
    assert 0 <= CATALOGUE.place(path).rank <= len(CATALOGUE.datasets)
