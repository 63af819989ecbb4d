"""`ldae power`: what it says about claims, from the seeds that there are."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from made_up import MadeUp
from test_report import study_of

from ldae.readers.power import power
from ldae.study.study import Study


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("power")
    study = study_of(folder)
    MadeUp(study, folder / study.results)
    return folder


@pytest.fixture(scope="module")
def study(root: Path) -> Study:
    return study_of(root)


def lines(text: str) -> dict[str, str]:
    """The lines of the table, by the claim."""
    return {words[0]: line for line in text.splitlines() if (words := line.split()) and words[0] != "claim"}


def test_each_claim_has_its_estimate_spread_and_replications(root: Path, study: Study) -> None:
    text = power(study, root, [])
    found = lines(text)
    assert set(study.file.claims) <= set(found)
    name = next(name for name, claim in study.file.claims.items() if claim.sum is not None)
    number = r"(\d+|over 200)"
    assert re.search(rf"[+-]\d+\.\d +\d+\.\d +\d+\.\d +2 +.* +{number}( to {number})?$", found[name]), found[name]
    assert "s: the standard deviation between seeds" in text
    one = power(study, root, [name])
    assert set(lines(one)) & set(study.file.claims) == {name}


def test_fewer_than_two_seeds_are_one_clear_line(root: Path, study: Study, tmp_path: Path) -> None:
    name, claim = next((name, claim) for name, claim in study.file.claims.items() if claim.sum is not None)
    copy = tmp_path / study.results
    shutil.copytree(root / study.results, copy)
    row = study.probes[claim.names[0]]
    shutil.rmtree(copy / f"probe/{row}/seed{study.file.seeds[1]}")
    assert power(study, tmp_path, [name]) == (
        f"A spread needs two seeds, and one seed has current results of all rows of: {name} (see --seeds)."
    )
    assert "no seed has current results" in power(study, tmp_path / "nowhere", [name])


def test_an_unknown_claim_is_named_with_the_nearest(root: Path, study: Study) -> None:
    name = next(iter(study.file.claims))
    with pytest.raises(ValueError, match=f"no claim '{name}x' .did you mean '{name}'"):
        power(study, root, [f"{name}x"])
