"""The shipped catalogue, compared with cQube's documents and templates."""

import pytest

from emitterd.datasets.catalogue import Dataset, Header, HeaderMatch, ValueRule, Version
from emitterd.datasets.catalogue_file import load_catalogue

CATALOGUE = load_catalogue()
DATASETS = {dataset.title: dataset for dataset in CATALOGUE.datasets}

# Title, first and last version (- is open), delimiter, and for each header how many
# columns it has and how it is compared: by s(equence), e(xact) or n(ames).
MASTERS = """
district_master/district_mst - - | 4s 4n 4n
block_master/block_mst - - | 5s 5n 4n
cluster_master/cluster_mst - - | 8s 6s 6n 3n
school_master/school_mst - - | 13s 13n 28n 28n
school_category/school_category_master 1.12 - | 2n
school_management/school_management_master 1.12 - | 2n
grade_details/grade_details 3.6 - | 3n
subject_details/subject_details 3.6 - | 3n
pat/periodic_exam_grade_details 1.10 - | 3n
pat/periodic_exam_subject_details 1.10 - | 3n
pat/periodic_exam_mst 1.4 - | 13n
pat/periodic_exam_qst_mst 1.4 - | 8n
sat/semester_exam_grade_details 1.11 - | 3n
sat/semester_exam_subject_details 1.11 - | 3n
sat/semester_exam_mst 1.11 - | 14n
sat/semester_exam_qst_mst 1.11 - | 8n
diksha/diksha_tpd_mapping 1.9 - , 6n
diksha/diksha_api_progress_exhaust_batch_ids 1.7 - , 1n
diksha_enrolment/diksha_enrolment 3.3 - ,
diksha_enrolment/diksha_etb_enrolment 3.3 - , 3n
configure_datasource/ 3.7 - ,
"""
TRANSACTIONS = """
student_attendance/StudentAttendance - 1.0 | 37s
student_attendance/student_attendance - - | 37s 37n
teacher_attendance/teacher_attendance 1.9 - | 35n
inspection_master/inspectionmaster - 1.0 |
inspection_master/inspection_master - - | 19o
user_location_master/UserLocationMaster - 1.0 |
user_location_master/user_location_master - - | 8o
infra_trans/infra_trans 1.1 - | 8n 11n
semester/semester - 2.9 | 28e
diksha/diksha 1.2 1.11 | 25s
diksha/diksha_data_summary 1.5 - , 23n
diksha/diksha_tpd 1.5 - , 12s 2n
pat/periodic_exam_result_trans 1.4 - | 11n
sat/semester_exam_result_trans 1.11 - | 11n
"""

# The columns of each, and what identifies a row.
UDISE = """
sch_facility 172
nsqf_plcmnt_c12 14 udise_sch_code sector_no item_id
nsqf_plcmnt_c10 14 udise_sch_code sector_no item_id
nsqf_class_cond 8 udise_sch_code sector_no class_type_id
sch_exmres_c12 20 udise_sch_code item_id stream_id
sch_exmres_c10 19 udise_sch_code item_id
sch_exmres_c8 26 udise_sch_code
sch_exmres_c5 26 udise_sch_code
sch_incen_cwsn 13 udise_sch_code item_id
sch_enr_by_stream 12 udise_sch_code stream_id caste_id
sch_enr_cwsn 29 udise_sch_code disability_type
sch_enr_medinstr 27 udise_sch_code medinstr_seq
sch_enr_age 27 udise_sch_code age_id
sch_enr_newadm 18 udise_sch_code
sch_enr_reptr 28 udise_sch_code item_group item_id
sch_enr_fresh 30 udise_sch_code item_group item_id
sch_staff_posn 13 udise_sch_code
sch_exmmarks_c10 12 udise_sch_code item_id marks_range_id
sch_exmmarks_c12 12 udise_sch_code item_id marks_range_id
nsqf_exmres_c10 12 udise_sch_code sector_no marks_range_id
nsqf_exmres_c12 12 udise_sch_code sector_no marks_range_id
nsqf_trng_prov 6 udise_sch_code sector_no
nsqf_faculty 17 nsqf_faculty_id udise_sch_code
sch_profile 230
tch_profile 31 udise_sch_code name dob
sch_recp_exp 49 udise_sch_code
nsqf_basic_info 8 udise_sch_code
nsqf_enr_caste 12 udise_sch_code sector_no item_id
nsqf_enr_sub_sec 12 udise_sch_code sector_no sub_sector_id
sch_pgi_details 8 udise_sch_code
sch_safety 12 udise_sch_code
sch_incentives 16 udise_sch_code grade_pri_upr incentive_type
"""


DAYS = tuple(map(str, range(1, 32)))


def described(dataset: Dataset) -> str:
    """Describe a dataset as the tables above do."""
    span = dataset.span
    headers = (f" {len(item.columns)}{item.match[0]}" for item in dataset.headers)
    return f"{dataset.title} {span.since or '-'} {span.until or '-'} {dataset.delimiter}" + "".join(
        headers
    )


def of_kind(kind: str) -> list[Dataset]:
    """Return the shipped datasets of a kind."""
    return [dataset for dataset in CATALOGUE.datasets if dataset.kind == kind]


@pytest.mark.parametrize(("kind", "table"), [("master", MASTERS), ("transactional", TRANSACTIONS)])
def test_the_datasets_are_those_of_the_documents(kind: str, table: str) -> None:
    """Order, versions, delimiter and headers of each are as the documents have them."""
    assert [described(item) for item in of_kind(kind)] == table.strip().split("\n")


def test_the_udise_tables_are_those_of_the_template() -> None:
    """All 32, with so many columns and these keys, read from 1.3 on, in sequence."""
    tables = of_kind("udise")
    reported = [
        " ".join([table.name, str(len(table.headers[0].columns)), *table.keys]) for table in tables
    ]

    assert len(tables) == 32
    assert reported == UDISE.strip().split("\n")
    assert {(table.folder, table.delimiter, table.span.since) for table in tables} == {
        ("udise", "|", Version(1, 3))
    }
    assert {header.match for table in tables for header in table.headers} == {HeaderMatch.SEQUENCE}


def header(title: str, index: int = 0) -> Header:
    """Return one header of a shipped dataset."""
    return DATASETS[title].headers[index]


@pytest.mark.parametrize(
    ("title", "first", "last"),
    [
        ("student_attendance/student_attendance", "StudentAttendanceId", "31"),
        ("teacher_attendance/teacher_attendance", "AC_YEAR", "31"),
        ("inspection_master/inspection_master", "InspectionId", "IsOffline"),
        ("user_location_master/user_location_master", "UserLocationMasterId", "CreatedOn"),
        ("school_master/school_mst", "SchoolId", "Longitude"),
        ("semester/semester", "DistrictId", "Sanskrit"),
        ("diksha/diksha_tpd", "Collection Id", "user uuid"),
        ("udise/sch_profile", "udise_sch_code", "smdc_pta_meeting"),
        ("udise/sch_facility", "udise_sch_code", "ict_teach_hrs"),
        ("udise/tch_profile", "udise_sch_code", "trained_comp"),
    ],
)
def test_no_header_lost_an_end(title: str, first: str, last: str) -> None:
    """A header begins and ends as it is documented."""
    columns = header(title).columns
    assert (columns[0], columns[-1]) == (first, last)


@pytest.mark.parametrize(
    ("title", "columns"),
    [
        ("district_master/district_mst", "DistrictId|StateId|District|IsActive"),
        (
            "udise/sch_incen_cwsn",
            (
                "udise_sch_code|ac_year|item_id|tot_sec_b|tot_sec_g|tot_hsec_b|tot_hsec_g|"
                "tot_pry_b|tot_pry_g|tot_upr_b|tot_upr_g|tot_pre_pri_b|tot_pre_pri_g"
            ),
        ),
        (
            "udise/nsqf_faculty",
            (
                "udise_sch_code|ac_year|faculty_code|name|gender|dob|soc_cat|"
                "nature_of_appt|qual_acad|qual_prof|industry_exp|training_exp|"
                "class_taught|appt_sec|induc_trg_rcvd|inserv_trg_rcvd|nsqf_faculty_id"
            ),
        ),
        (
            "diksha/diksha_tpd_mapping",
            "Diksha UUID|State|District|School Name|School UDISE ID|Status",
        ),
    ],
)
def test_columns_stand_in_the_order_that_the_server_holds_files_to(
    title: str, columns: str
) -> None:
    """Where a document and the template differ, it is the template's order."""
    assert "|".join(header(title).columns) == columns


def test_rain_comes_before_water() -> None:
    """The template has these two columns of sch_facility the other way round."""
    columns = header("udise/sch_facility").columns
    rain = columns.index("rain_harvest_yn")

    assert columns[rain : rain + 2] == ("rain_harvest_yn", "water_tested_yn")


@pytest.mark.parametrize(
    ("title", "index", "required"),
    [
        ("district_master/district_mst", 1, "DistrictId|District"),
        ("district_master/district_mst", 2, "district_name|udise_district_code"),
        (
            "school_master/school_mst",
            2,
            (
                "udise_sch_code|school_name|sch_mgmt_id|state_cd|district_cd|block_cd_1|"
                "cluster_cd|latitude|longitude"
            ),
        ),
        (
            "school_master/school_mst",
            3,
            (
                "udise_sch_code|school_name|sch_mgmt_id|sch_category_id|state_cd|"
                "district_cd|block_cd_1|cluster_cd|latitude|longitude"
            ),
        ),
        ("block_master/block_mst", 1, "BlockId|Block|DistrictId"),
        ("cluster_master/cluster_mst", 2, "ClusterId|Cluster|BlockId|DistrictId"),
        (
            "student_attendance/student_attendance",
            1,
            "|".join(
                ["StudentAttendanceId", "StudentId", "SchoolId", "AcademicYear", "Month", *DAYS]
            ),
        ),
        ("infra_trans/infra_trans", 0, "school_id"),
        (
            "pat/periodic_exam_result_trans",
            0,
            (
                "id|exam_id|exam_code|student_id|student_uid|school_id|studying_class|"
                "section|question_id|obtained_marks"
            ),
        ),
        ("pat/periodic_exam_subject_details", 0, "subject_id|subject|grade"),
    ],
)
def test_by_name_only_what_the_server_selects_is_required(
    title: str, index: int, required: str
) -> None:
    """Documented columns that the server does not select may be missing."""
    assert "|".join(header(title, index).required) == required


@pytest.mark.parametrize(
    ("title", "dates"),
    [
        ("pat/periodic_exam_mst", {"exam_date": "%Y-%m-%d"}),
        ("sat/semester_exam_mst", {"exam_date": "%Y-%m-%d"}),
        ("inspection_master/inspection_master", {"VisitDate": "%Y-%m-%d"}),
        ("user_location_master/user_location_master", {"CreatedOn": "%Y-%m-%d"}),
        ("infra_trans/infra_trans", {"CreatedOn": "%Y-%m-%d"}),
        ("diksha/diksha_tpd", {"Enrolment Date": "%d/%m/%Y", "completion Date": "%d/%m/%Y"}),
    ],
)
def test_dates_have_the_form_that_the_server_reads(title: str, dates: dict[str, str]) -> None:
    """Year first, but for the course reports of DIKSHA."""
    assert dict(DATASETS[title].dates) == dates


@pytest.mark.parametrize(
    ("title", "version", "fitting"),
    [
        ("district_master/district_mst", "1.0", []),
        ("district_master/district_mst", "1.6", ["state sequence"]),
        ("district_master/district_mst", "4.1", ["state names", "udise names"]),
        ("cluster_master/cluster_mst", "1.1", ["state sequence", "state sequence"]),
        ("school_master/school_mst", "1.11", ["state names", "udise names"]),
        ("school_master/school_mst", "1.12", ["state names", "udise names"]),
        ("inspection_master/inspection_master", "1.1", []),
        ("inspection_master/inspection_master", "1.2", [" only"]),
        ("student_attendance/student_attendance", "2.0", [" sequence"]),
        ("student_attendance/student_attendance", "3.0", [" names"]),
        ("diksha/diksha", "1.4", []),
        ("udise/nsqf_faculty", "1.11", []),
        ("udise/nsqf_faculty", "1.12", [" sequence"]),
    ],
)
def test_a_header_holds_for_its_versions(title: str, version: str, fitting: list[str]) -> None:
    """A version has the headers that it checks, and none where that is not known."""
    there = Version.parse(version)
    held = [item for item in DATASETS[title].headers if item.span.holds(there)]

    assert [f"{item.variant} {item.match}" for item in held] == fitting


# What the templates check, as column-types of 1.12.1 and 3.7; ! is no null, !! only in 3.7.
VALUES = """
district_master/district_mst int32 DistrictId! udise_district_code!
district_master/district_mst text District! district_name!
block_master/block_mst int32 DistrictId!
block_master/block_mst int64 BlockId! udise_block_code! udise_dist_code! udise_state_code
block_master/block_mst text Block! block_name!
cluster_master/cluster_mst int32 DistrictId
cluster_master/cluster_mst int64 ClusterId! BlockId! udise_block_code! udise_cluster_code!
cluster_master/cluster_mst text Cluster! cluster_name!
school_master/school_mst coordinate Latitude! Longitude!
school_master/school_mst text School! school_name!
school_management/school_management_master int32 ManagementId!
school_management/school_management_master text Management!
pat/periodic_exam_grade_details int32 grade! students_count
pat/periodic_exam_grade_details int64 school_id!
pat/periodic_exam_subject_details int32 subject_id! grade!
pat/periodic_exam_subject_details text subject!
pat/periodic_exam_qst_mst int32 question_id! exam_id! indicator_id
pat/periodic_exam_qst_mst decimal question_marks!
pat/periodic_exam_qst_mst text question_title! question!
student_attendance/student_attendance int64 StudentAttendanceId! StudentId! SchoolId! Month!
student_attendance/student_attendance text AcademicYear!
teacher_attendance/teacher_attendance int64 TCHCD SCHCD MONTH
inspection_master/inspection_master int64 InspectionId! ObserverId!! SchoolId!
inspection_master/inspection_master decimal TotalScore Score
inspection_master/inspection_master bool IsOffline
user_location_master/user_location_master int64 UserLocationMasterId!! UserMasterId!! \
SchoolId! InspectionId!
user_location_master/user_location_master decimal Latitude! Longitude!
user_location_master/user_location_master text CreatedOn! InSchoolLocation!
pat/periodic_exam_result_trans int32 id! exam_id! studying_class! question_id!
pat/periodic_exam_result_trans int64 student_id student_uid! school_id!
pat/periodic_exam_result_trans decimal obtained_marks!
pat/periodic_exam_result_trans text exam_code!
"""


@pytest.mark.parametrize("line", VALUES.replace("\\\n", "").strip().split("\n"))
def test_values_have_the_types_of_the_templates(line: str) -> None:
    """The types, and the columns that must have a value, are those that the server checks."""
    title, kind, *columns = line.split()

    def mark(rule: ValueRule) -> str:
        if rule.needed is None:
            return ""
        return "!" if rule.needed.holds(Version(1, 12)) else "!!"

    rules = [rule for rule in DATASETS[title].values if rule.kind == kind]
    assert [f"{rule.name}{mark(rule)}" for rule in rules] == columns


@pytest.mark.parametrize("dataset", CATALOGUE.datasets, ids=lambda value: value.title)
def test_nothing_is_asked_that_no_header_has(dataset: Dataset) -> None:
    """Required columns, keys and dates are columns; no header has one twice."""
    every = {name.lower() for item in dataset.headers for name in item.columns}

    assert {name.lower() for name in dataset.keys} <= every
    assert {name.lower() for name, _ in dataset.dates} <= every
    assert {rule.name.lower() for rule in dataset.values} <= every
    for item in dataset.headers:
        lower = [name.lower() for name in item.columns]
        assert {name.lower() for name in item.required} <= set(lower)
        assert len(set(lower)) == len(lower)
