"""The mutants of `bench/mutants` still fit the code; they are run by hand."""

import shutil
from pathlib import Path

import pytest

from mutant_list import MUTANTS, PACKAGE, Mutant
from support.paths import TESTS

every_mutant = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)


@every_mutant
def test_it_still_applies(mutant: Mutant, tmp_path: Path) -> None:
    """What a mutant replaces stands exactly once in its file, and is replaced."""
    original = PACKAGE / mutant.file
    shutil.copy(original, tmp_path)
    mutant.apply(tmp_path)
    changed = (tmp_path / mutant.file).read_text("utf-8")

    assert changed != original.read_text("utf-8")
    if mutant.file.endswith(".py"):
        compile(changed, mutant.file, "exec")


@every_mutant
def test_its_tests_are_there(mutant: Mutant) -> None:
    """The tests that are to notice a mutant exist."""
    for name in mutant.tests:
        file, _, test = name.partition("[")[0].partition("::")
        assert f"def {test}" in (TESTS / file).read_text("utf-8")


def test_each_has_a_name_of_its_own() -> None:
    """A name on the command line means one mutant."""
    assert len({one.name for one in MUTANTS}) == len(MUTANTS)
