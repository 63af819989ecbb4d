"""The numbers that a row's training starts with, recorded: they change only when somebody means them to.

`python tests/test_numerics.py` records those of new rows and those that have changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from rows import VARIANTS, images, run

GOLDEN = Path(__file__).parent / "golden.json"
TOLERANCE = 1e-4  # relative: processors round differently
NEW = "is new: record its first losses with python tests/test_numerics.py"
CHANGED = (
    "the numbers of existing results changed: if that is meant, raise revisions.pretrain in config.yaml, "
    "then record them anew with python tests/test_numerics.py"
)
Golden = dict[str, list[float]]


def measured(row: str) -> list[float]:
    """The loss and the gradient norm of the third step."""
    training = run(row)
    for _ in range(3):
        measured = training.update(images(), torch.arange(8) % 3)
    return [float(measured["loss"]), float(measured["gradient_norm"])]


def brought_up_to_date(golden: Golden, rows: Iterable[str], measure: Callable[[str], list[float]]) -> Golden:
    """What is recorded for the rows that there are: numbers that agree stay as they are, to the last digit."""
    found = {row: measure(row) for row in rows}
    return {
        row: golden[row] if golden.get(row) == pytest.approx(values, rel=TOLERANCE) else values
        for row, values in found.items()
    }


@pytest.mark.parametrize("row", VARIANTS)
def test_a_rows_first_losses_are_those_recorded(row: str) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert row in golden, f"row {row} {NEW}"
    assert measured(row) == pytest.approx(golden[row], rel=TOLERANCE), CHANGED


def test_no_number_is_recorded_for_a_row_that_is_gone() -> None:
    gone = set(json.loads(GOLDEN.read_text())) - set(VARIANTS)
    assert not gone, "python tests/test_numerics.py removes them"


def test_recording_leaves_what_agrees_and_adds_what_is_missing() -> None:
    golden = {"same": [1.0, 2.0], "changed": [1.0, 2.0], "gone": [1.0, 2.0]}
    now = {"same": [1.0 + 1e-7, 2.0], "changed": [1.0, 2.1], "new": [3.0, 4.0]}
    expected = {"same": [1.0, 2.0], "changed": [1.0, 2.1], "new": [3.0, 4.0]}
    assert brought_up_to_date(golden, now, now.__getitem__) == expected


if __name__ == "__main__":
    torch.set_num_threads(1)
    before: Golden = json.loads(GOLDEN.read_text())
    after = brought_up_to_date(before, VARIANTS, measured)
    GOLDEN.write_text(json.dumps(after, indent=1) + "\n")
    for row in dict.fromkeys([*before, *after]):
        if before.get(row) != after.get(row):
            print(f"{row}: {'removed' if row not in after else 'recorded' if row not in before else 'changed'}")
