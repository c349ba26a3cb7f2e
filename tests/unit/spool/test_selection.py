"""Which names are candidates: temporary names, `exclude`, `include`, hidden folders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.spool.selection import Selection

TEMPORARY = "its name is that of a temporary file"
HIDDEN = "it is in a hidden folder, or in one of the system"
EXCLUDED = "spool.exclude names it"
NOT_INCLUDED = "spool.include does not name it"


@pytest.fixture
def everything() -> Selection:
    """Return a selection whose patterns name every file."""
    return Selection(["**"], [])


@pytest.fixture
def zips() -> Selection:
    """Return the selection of the default configuration."""
    return Selection(["**/*.zip"], [])


@pytest.mark.parametrize(
    "name",
    [
        b"x.zip.part",
        b"x.zip.partial",
        b"x.zip.filepart",
        b"x.zip.crdownload",
        b"x.zip.download",
        b"x.zip.tmp",
        b"x.zip.temp",
        b"x.zip.swp",
        b"x.zip~",
        b"~$x.zip",
        b"~x.zip",
        b".x.zip",
        b".x.zip.AbC123",
        b".~lock.x.zip#",
        b".syncthing.x.zip.tmp",
        b"x.syncthing.1.zip",
        b"~syncthing~x.zip.tmp",
        b"ziAbC123",
        b"zi000000",
        b".nfs000000000001",
        b".goutputstream-AbC123",
        b"caf\xe9.zip.part",
    ],
)
@pytest.mark.parametrize("folder", [b"", b"pat/", b"a/b/"])
def test_a_temporary_name_is_never_a_candidate(
    everything: Selection, folder: bytes, name: bytes
) -> None:
    """Names that programs use while they write are ignored, in any folder."""
    assert everything.ignored(folder + name) == TEMPORARY


@pytest.mark.parametrize(
    "name",
    [
        b"x.zip",
        b"x.part.zip",
        b"part.zip",
        b"tmp.zip",
        b"x~y.zip",
        b"zip.zip",
        b"ziAbC123.zip",
        b"ziAbC12",
        b"ziAbC1234",
        b"xziAbC123",
        b"syncthing.zip",
        b"x.tmpl",
    ],
)
def test_a_name_that_only_looks_temporary_is_a_candidate(
    everything: Selection, name: bytes
) -> None:
    """Only the known temporary names are ignored."""
    assert everything.ignored(b"pat/" + name) is None


@pytest.mark.parametrize(
    "path",
    [
        b".git/x.zip",
        b"pat/.old/x.zip",
        b".a/.b/x.zip",
        b"pat/#recycle/x.zip",
        b"@Recycle/pat/x.zip",
        b"pat/@eaDir/x.zip/y.zip",
        b"$RECYCLE.BIN/S-1-5-21/$R1.zip",
        b"System Volume Information/x.zip",
        b"pat/.Trash-1000/files/x.zip",
        b"#snapshot/pat/x.zip",
        b"@Recently-Snapshot/pat/x.zip",
        b"pat/x.zip.download/x.zip",
        b"pat/x.zip.sb-1a2b3c4d-AbCdEf/x.zip",
    ],
)
def test_a_file_in_a_folder_of_the_system_is_ignored(zips: Selection, path: bytes) -> None:
    """Hidden folders, recycle bins, snapshots and half downloads have no candidates."""
    assert zips.ignored(path) == HIDDEN
    assert any(zips.skipped(path[:end]) for end, letter in enumerate(path) if letter == ord("/"))


@pytest.mark.parametrize("folder", [b"recycle", b"eaDir", b"zipper", b"download", b"a#recycle"])
def test_a_similar_folder_is_not_ignored(zips: Selection, folder: bytes) -> None:
    """Only the exact names count."""
    assert zips.ignored(folder + b"/x.zip") is None


@pytest.mark.parametrize(
    ("folder", "hidden"), [(b".git", True), (b".", True), (b"pat", False), (b"", False)]
)
def test_hidden_folders_are_passed_over_whole(
    zips: Selection, folder: bytes, *, hidden: bool
) -> None:
    """The walk skips a folder whose files are all ignored."""
    assert (zips.skipped(folder) is not None) is hidden


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (b"x.zip", None),
        (b"pat/x.zip", None),
        (b"a/b/c/d.zip", None),
        (b"pat/.zip", TEMPORARY),
        (b"pat/x.csv", NOT_INCLUDED),
        (b"pat/x.ZIP", NOT_INCLUDED),
        (b"pat/xzip", NOT_INCLUDED),
    ],
)
def test_the_default_takes_zips_at_any_depth(zips: Selection, path: bytes, why: str | None) -> None:
    """`**/*.zip` names every zip under the watched folder and nothing else."""
    assert zips.ignored(path) == why


@pytest.mark.parametrize(
    ("include", "exclude", "path", "why"),
    [
        (["pat/"], [], b"pat/x.zip", None),
        (["pat/"], [], b"sat/x.zip", NOT_INCLUDED),
        (["/x.zip"], [], b"pat/x.zip", NOT_INCLUDED),
        (["*.zip", "!old*.zip"], [], b"pat/old1.zip", NOT_INCLUDED),
        (["*.zip"], ["old/"], b"pat/old/x.zip", f"{EXCLUDED}: old/"),
        (["*.zip"], ["old/"], b"pat/old.zip", None),
        (["*.zip"], ["*", "!keep.zip"], b"pat/keep.zip", None),
        (["*.zip"], ["a", "*.zip"], b"pat/x.zip", f"{EXCLUDED}: *.zip"),
        ([], [], b"pat/x.zip", NOT_INCLUDED),
    ],
    ids=[
        "a folder",
        "another folder",
        "anchored",
        "include negated",
        "a folder excluded",
        "a file is no folder",
        "exclude negated",
        "exclude is stronger",
        "nothing included",
    ],
)
def test_patterns_are_those_of_gitignore(
    include: list[str], exclude: list[str], path: bytes, why: str | None
) -> None:
    """Folders, anchors and negation work as in a .gitignore; exclude is stronger."""
    assert Selection(include, exclude).ignored(path) == why


def test_exclude_comes_on_top_of_the_temporary_names() -> None:
    """A negated exclude does not bring a temporary name back."""
    assert Selection(["**"], ["!*.part"]).ignored(b"pat/x.zip.part") == TEMPORARY


@pytest.mark.parametrize(
    "path",
    [
        b"caf\xe9.zip",
        b"\xff\xfe/x.zip",
        "schülér/données.zip".encode(),
        b"-rf.zip",
        b"#x.zip",
        b"!x.zip",
        b" x.zip",
        b"a\\b.zip",
        b"x\ny.zip",
        b"x\r.zip",
        b"%2e%2e.zip",
        b"a" * 251 + b".zip",
        b"a\nb/x.zip",
        b"pat/a\n/x.zip",
    ],
)
def test_a_strange_name_is_a_candidate_all_the_same(zips: Selection, path: bytes) -> None:
    """No byte in a name makes a zip invisible."""
    assert zips.ignored(path) is None


def test_a_pattern_names_a_file_that_is_not_utf_8() -> None:
    """Exclude reaches such a file by the part of its name that can be written."""
    why = Selection(["**"], ["caf*.zip"]).ignored(b"pat/caf\xe9.zip")

    assert why == f"{EXCLUDED}: caf*.zip"


NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: b"/" not in name)


@given(st.lists(NAMES, min_size=1, max_size=4).map(b"/".join))
def test_every_path_is_decided(path: bytes) -> None:
    """Every path is a candidate, or there is a reason."""
    selection = Selection(["**/*.zip"], ["old/"])
    assert selection.ignored(path) in {None, TEMPORARY, HIDDEN, EXCLUDED, NOT_INCLUDED}
