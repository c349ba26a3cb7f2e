"""The verdict on zips as many writers make them."""

import pytest

from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.findings import fatal
from emitterd.datasets.zip_integrity import zip_flaw
from emitterd.datasets.zip_members import DamagedZip, check_content
from support.zips import Counted, codes, inspected
from unit.datasets.zip_corpus import PATH, SHAPES, Server, Shape

DATASET = load_catalogue().dataset(PATH.encode())

EACH = pytest.mark.parametrize("shape", SHAPES, ids=[shape.name for shape in SHAPES])
DAMAGED_CONTENT = "E229"
"""The server checks neither CRC nor size. It may read damaged content without an error."""


@EACH
def test_each_zip_has_its_verdict(shape: Shape) -> None:
    """A zip is whole or not, and its findings have the codes of the table."""
    flaw = zip_flaw(Counted(shape.data), len(shape.data))
    report = inspected(shape.data, DATASET)

    assert ("E201" if flaw else " ".join(codes(report))) == shape.codes
    assert report.whole or shape.codes


@EACH
def test_a_zip_is_sent_if_the_server_reads_it(shape: Shape) -> None:
    """With `enforce`, emitterd sends what the server reads as one CSV, and nothing else."""
    report = inspected(shape.data, DATASET)
    whole = zip_flaw(Counted(shape.data), len(shape.data)) is None
    sent = whole and not fatal(report.findings)

    if shape.codes not in {"E201", DAMAGED_CONTENT}:
        assert sent == (shape.server is Server.READS)
    else:
        assert not sent


@EACH
def test_the_content_of_a_sound_zip_passes(shape: Shape) -> None:
    """Where no lease proves that a file is closed, only damaged content makes it incomplete."""
    if shape.codes == "E201" or DAMAGED_CONTENT in shape.codes:
        return
    check_content(Counted(shape.data), len(shape.data), 1024**2)


def test_damaged_content_does_not_pass() -> None:
    """A checksum, a size or a stream that is wrong makes the zip incomplete."""
    wrong = [shape for shape in SHAPES if "wrong" in shape.name or "stream" in shape.name]
    damaged = [shape for shape in wrong if shape.codes == DAMAGED_CONTENT]

    for shape in damaged:
        with pytest.raises(DamagedZip):
            check_content(Counted(shape.data), len(shape.data), 1024**2)
    assert len(damaged) == 4


def test_the_table_has_many_writers() -> None:
    """Each row of the table is another case."""
    names = [shape.name for shape in SHAPES]

    assert len(names) == len(set(names)) >= 130
