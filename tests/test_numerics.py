"""The numbers that a row's training starts with, recorded: they change only when somebody means them to.

`python tests/test_numerics.py` records them anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rows import VARIANTS, images, run

GOLDEN = Path(__file__).parent / "golden.json"
HINT = (
    "numbers changed: bump revisions.pretrain in config.yaml if that is meant, "
    "then record them anew with python tests/test_numerics.py"
)


def measured(row: str) -> list[float]:
    """The loss and the gradient norm of the third step."""
    training = run(row)
    for _ in range(3):
        measured = training.update(images(), torch.arange(8) % 3)
    return [float(measured["loss"]), float(measured["gradient_norm"])]


@pytest.mark.parametrize("row", VARIANTS)
def test_a_rows_first_losses_are_those_recorded(row: str) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert row in golden, f"row {row} has no recorded numbers; {HINT}"
    assert measured(row) == pytest.approx(golden[row], rel=1e-4), HINT


def test_no_number_is_recorded_for_a_row_that_is_gone() -> None:
    assert set(json.loads(GOLDEN.read_text())) == set(VARIANTS), HINT


if __name__ == "__main__":
    torch.set_num_threads(1)
    GOLDEN.write_text(json.dumps({row: measured(row) for row in VARIANTS}, indent=1) + "\n")
