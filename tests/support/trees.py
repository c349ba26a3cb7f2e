"""Datasets of cQube's document "Emission Process", in the order of sending."""

MASTERS = (
    "block_master/block_mst",
    "cluster_master/cluster_mst",
    "district_master/district_mst",
    "school_master/school_mst",
    "pat/periodic_exam_mst",
    "pat/periodic_exam_qst_mst",
    "diksha/diksha_tpd_mapping",
    "diksha/diksha_api_progress_exhaust_batch_ids",
    "sat/semester_exam_mst",
    "sat/semester_exam_qst_mst",
    "sat/semester_exam_subject_details",
    "school_category/school_category_master",
    "school_management/school_management_master",
    "sat/semester_exam_grade_details",
    "pat/periodic_exam_subject_details",
    "pat/periodic_exam_grade_details",
)
TRANSACTIONAL = (
    "student_attendance/student_attendance",
    "teacher_attendance/teacher_attendance",
    "user_location_master/user_location_master",
    "inspection_master/inspection_master",
    "infra_trans/infra_trans",
    "diksha/diksha",
    "pat/periodic_exam_result_trans",
    "sat/semester_exam_result_trans",
)
