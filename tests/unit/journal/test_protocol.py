"""The protocol of several hosts, in every order of its steps; and what each of its rules is for.

`support.protocol` describes the protocol. Each test visits all states that it can reach.
"""

import sys

import pytest

from support.protocol import CAME_BACK, FENCED_WRITE, OVERWRITTEN, STUCK, TWO_OBJECTS, Rules, search

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("hosts", "files", "one_path", "states"),
    [
        pytest.param("AB", 1, False, 5_000, id="two hosts"),
        pytest.param("ABC", 1, False, 60_000, id="three hosts"),
        pytest.param("AAB", 1, False, 70_000, id="a host that starts again, and another"),
        pytest.param("AB", 2, True, 100_000, id="two versions of a path", marks=SLOW),
        pytest.param("AB", 2, False, 400_000, id="two hosts and two files", marks=SLOW),
    ],
)
def test_every_file_is_delivered_once_in_every_order_of_steps(
    hosts: str, files: int, states: int, *, one_path: bool
) -> None:
    """No order of steps breaks the guarantee, and any host alone can finish from any state.

    A second object, or a second upload to one key, is on record as ambiguous. No object comes back
    once its file is delivered, and no write of a host counts whose claim was taken back.
    """
    result = search(hosts, files, Rules(), one_path=one_path)

    assert not result.problem, "\n".join(result.trace)
    # Fewer would mean that steps are missing.
    assert result.states >= states


@pytest.mark.parametrize(
    ("rules", "hosts", "kind", "steps"),
    [
        pytest.param(
            Rules(token=False),
            "AB",
            FENCED_WRITE,
            ["B ends A and takes back file 1", "A pins key 1 and begins the body"],
            id="token",
        ),
        pytest.param(
            Rules(boundary=False),
            "AB",
            CAME_BACK,
            ["A sends the end of the body", "B records file 1 as delivered"],
            id="boundary",
        ),
        pytest.param(
            Rules(boundary_of_life=False),
            "AAB",
            CAME_BACK,
            ["A2 begins, and ends the life before", "A1 sends the end of the body"],
            id="boundary of the life",
        ),
        pytest.param(
            Rules(pinning=False),
            "AB",
            TWO_OBJECTS,
            ["A sends the end of the body", "B gets a grant for key 2"],
            id="pinning",
        ),
        pytest.param(
            Rules(any_ended=False),
            "AB",
            STUCK,
            ["A ends B and takes back nothing", "the claim by B is committed"],
            id="any ended life",
        ),
        pytest.param(
            Rules(grace=False),
            "AB",
            CAME_BACK,
            ["A lets its lease end", "B ends A and takes back file 1"],
            id="grace",
        ),
        pytest.param(
            Rules(restart_waits=False),
            "AAB",
            CAME_BACK,
            ["A1 is killed", "A2 begins, and ends the life before"],
            id="restart",
        ),
    ],
)
def test_no_rule_can_be_left_out(rules: Rules, hosts: str, kind: str, steps: list[str]) -> None:
    """Without it, a short order of steps breaks the guarantee."""
    result = search(hosts, 1, rules)
    _print(result.problem, result.trace)

    assert result.problem == kind
    assert [text for text in result.trace if text in steps] == steps
    assert len(result.trace) <= 15


def test_keys_of_versions_must_differ() -> None:
    """Two grants within one second have one key; the journal refuses to pin the second."""
    result = search("AB", 2, Rules(unique_key=False), one_path=True)
    _print(result.problem, result.trace)

    assert result.problem == OVERWRITTEN
    assert sum("pins key 1" in text for text in result.trace) == 2


def _print(problem: str, trace: tuple[str, ...]) -> None:
    lines = [f"{number:3}. {text}" for number, text in enumerate(trace, 1)]
    sys.stdout.write("\n".join([f"{problem}:", *lines, ""]))
