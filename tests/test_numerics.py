"""The numbers that each stage computes, recorded: they change only when somebody means them to.

`python tests/test_numerics.py` records those that are new and those that have changed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent / "helpers"))  # for recording, without pytest

from rows import VARIANTS
from small_stages import CASES, Numbers

from ldae.study.file import REVISIONS, Paper

GOLDEN = Path(__file__).parent / "golden.json"
TOLERANCE = 1e-4  # relative: processors round differently
RECORD = "record them with python tests/test_numerics.py"
Cases = dict[str, dict[str, Callable[[], Numbers]]]  # by the key of `revisions` and the name of the case
Golden = dict[str, dict[str, Numbers]]


def agree(numbers: Numbers, recorded: Numbers | None) -> bool:
    """Whether numbers are those recorded, but for rounding."""
    return recorded is not None and numbers == pytest.approx(recorded, rel=TOLERANCE)


def updated(golden: Golden, cases: Cases) -> Golden:
    """What to record for the present cases: numbers that agree stay as they are, to the last digit."""
    new: Golden = {}
    for revision, of_revision in cases.items():
        new[revision] = {}
        for case, measure in of_revision.items():
            numbers, recorded = measure(), golden.get(revision, {}).get(case)
            new[revision][case] = recorded if recorded is not None and agree(numbers, recorded) else numbers
    return new


@pytest.mark.parametrize(
    ("revision", "case"), [(revision, case) for revision, of_revision in CASES.items() for case in of_revision]
)
def test_a_stages_numbers_are_those_recorded(revision: str, case: str) -> None:
    recorded = json.loads(GOLDEN.read_text()).get(revision, {}).get(case)
    if recorded is None and revision == "pretrain" and case in VARIANTS and VARIANTS[case].paper == Paper():
        pytest.skip(f"row {case!r} is new; {RECORD}")  # a user's own row
    assert recorded is not None, f"{revision}, {case}: is new; {RECORD}"
    numbers = CASES[revision][case]()
    changes = [f"{name}: {recorded.get(name)} -> {numbers.get(name)}" for name in {**recorded, **numbers}]
    assert agree(numbers, recorded), (
        f"the numbers of existing results changed: if that is meant, raise revisions.{revision} in config.yaml, then "
        f"{RECORD} ({'; '.join(changes)})"
    )


def test_every_revision_has_recorded_numbers() -> None:
    assert set(CASES) == set(REVISIONS)
    assert all(CASES.values())
    assert {"mae", "moco_v3"} <= set(CASES["pretrain"])


def test_no_number_is_recorded_for_a_case_that_is_gone() -> None:
    golden: Golden = json.loads(GOLDEN.read_text())
    gone = [f"{revision}, {case}" for revision in golden for case in golden[revision] if case not in CASES[revision]]
    assert not gone, "python tests/test_numerics.py removes them"


def test_recording_leaves_what_agrees_and_adds_what_is_missing() -> None:
    golden = {"probe": {"same": {"x": 1.0}, "changed": {"x": 1.0}, "gone": {"x": 1.0}}}
    cases: Cases = {
        "probe": {"same": lambda: {"x": 1.0 + 1e-7}, "changed": lambda: {"x": 1.1}, "new": lambda: {"y": 2.0}},
        "judge": {"first": lambda: {"z": 3.0}},
    }
    expected = {"probe": {"same": {"x": 1.0}, "changed": {"x": 1.1}, "new": {"y": 2.0}}, "judge": {"first": {"z": 3.0}}}
    assert updated(golden, cases) == expected


if __name__ == "__main__":
    torch.set_num_threads(1)
    before: Golden = json.loads(GOLDEN.read_text())
    after = updated(before, CASES)
    GOLDEN.write_text(json.dumps(after, indent=1) + "\n")
    for revision in {**after, **before}:
        old, new = before.get(revision, {}), after.get(revision, {})
        for case in {**old, **new}:
            if old.get(case) != new.get(case):
                change = "removed" if case not in new else "recorded" if case not in old else "changed"
                print(f"{revision}, {case}: {change}")
