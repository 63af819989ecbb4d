"""Tables and figures, from results made up here so that the right answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ldae.figures import FIGURES, write_figure
from ldae.files import write_json
from ldae.record import digest
from ldae.results import collect
from ldae.tables import write_cost, write_table

NUM, LINEAGE = 400, {"probe": {"revision": 1, "spec": {"features": {}}}}
PROVENANCE = {"seconds": 10.0, "import_seconds": 2.0, "peak_memory_mb": 500, "device": "a processor", "commit": "abc"}
SHARES = {"first": 0.4, "second": 0.5}  # of the images that each row gets right; random weights get 0.2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dataset").mkdir()
    np.save(tmp_path / "dataset/val_groups.npy", np.arange(NUM) // 4)
    write_json(tmp_path / "dataset/manifest.json", {"classes": list("abcde")})
    for row, share in SHARES.items():
        for seed in (0, 1):
            save(tmp_path / row / str(seed), row, seed, share + 0.02 * seed)
    save(tmp_path / "pixels", "raw pixels", 0, 0.1)
    return tmp_path


def save(folder: Path, row: str, seed: int, share: float) -> None:
    folder.mkdir(parents=True)
    kinds = {"trained": share, "random": 0.2}
    order = np.random.default_rng(0).permutation(NUM)  # the same images are easy for all
    np.savez(
        folder / "correct.npz", **{kind: (order < round(NUM * part)).astype(np.uint8) for kind, part in kinds.items()}
    )
    summary = {"knn": 0.3, "rate": 1.0, "rate_at_edge": row == "second"}
    about = {"row": row, "seed": seed, "lineage": LINEAGE, "trained": summary, "provenance": PROVENANCE}
    write_json(folder / "probe.json", about)


def definition(seeds: list[int], **more: Any) -> dict[str, Any]:
    rows = [
        {"name": "second", "label": "σ = √2 & more", "paper": {"probe": 60.0}, "lineage": digest(LINEAGE)},
        {"name": "first", "label": "first", "paper": {}, "lineage": digest(LINEAGE)},
    ]
    return {"title": "A title", "rows": rows, "seeds": seeds, "pixels": digest(LINEAGE)} | more


def results_of(folder: Path, wanted: dict[str, Any]) -> Any:
    probes = [folder / row / str(seed) for row in SHARES for seed in wanted["seeds"]]
    return collect(wanted, dataset=folder / "dataset", probes=probes, pixels=folder / "pixels")


def test_a_table_shows_accuracy_and_gain_with_intervals(folder: Path) -> None:
    wanted = definition([0])
    write_table(wanted, results_of(folder, wanted), out=folder / "table")
    frame = pd.read_csv(folder / "table.csv")
    assert frame["name"].tolist() == ["second", "first"]
    assert frame["accuracy"].tolist() == pytest.approx([0.5, 0.4])
    assert frame["gain"].tolist() == pytest.approx([0.3, 0.2])
    assert (frame["gain_low"] > 0).all()
    width = frame["accuracy_high"] - frame["accuracy_low"]
    assert (width > 0.05).all()
    text = (folder / "table.md").read_text()
    assert "| σ = √2 & more | 60.0    | 50.0 [" in text
    assert "+30.0 [" in text
    assert "Raw pixels: 10.0 [" in text
    assert "Chance: 20.0" in text
    assert "smallest or largest tried for: σ = √2 & more." in text
    latex = (folder / "table.tex").read_text()
    assert r"$\sigma$ = $\surd$2 \& more" in latex


def test_seeds_give_mean_and_spread(folder: Path) -> None:
    wanted = definition([0, 1])
    write_table(wanted, results_of(folder, wanted), out=folder / "table")
    frame = pd.read_csv(folder / "table.csv")
    assert frame["accuracy"].tolist() == pytest.approx([0.51, 0.41])
    assert frame["seed1"].tolist() == pytest.approx([0.52, 0.42])
    assert "± 1.4" in (folder / "table.md").read_text()


def test_results_of_another_specification_are_refused(folder: Path) -> None:
    wanted = definition([0])
    wanted["rows"][1]["lineage"] = digest({"probe": {"revision": 2, "spec": {}}})
    with pytest.raises(ValueError, match=r"first/0/probe.json: made from another specification"):
        results_of(folder, wanted)


def test_a_missing_result_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match="row second, seed 0: no result"):
        wanted = definition([0])
        collect(wanted, dataset=folder / "dataset", probes=[folder / "first/0"], pixels=folder / "pixels")


@pytest.mark.parametrize("kind", FIGURES)
def test_a_figure_is_the_same_bytes_every_time(kind: str, folder: Path) -> None:
    series = [{"label": "a curve", "dims": {"first": 8, "second": 16}}]
    wanted = definition([0], kind=kind, series=series)
    for name in ("one", "two"):
        write_figure(wanted, results_of(folder, wanted), out=folder / name)
    for ending in (".png", ".svg", ".csv"):
        assert (folder / f"one{ending}").read_bytes() == (folder / f"two{ending}").read_bytes()
    assert (folder / "one.png").stat().st_size > 5000
    frame = pd.read_csv(folder / "one.csv")
    assert sorted(frame["accuracy"]) == pytest.approx([0.4, 0.5])
    assert "linear probe accuracy" in (folder / "one.svg").read_text()


def test_costs_are_added_up_by_stage(folder: Path) -> None:
    write_json(folder / "run.json", {"row": "first", "seed": 0, "provenance": PROVENANCE})
    write_cost([folder / "run.json", folder / "first/0/probe.json", folder / "first/1/probe.json"], out=folder / "cost")
    frame = pd.read_csv(folder / "cost.csv")
    assert frame.groupby("stage")["seconds"].sum().to_dict() == {"pretrain": 10.0, "probe": 20.0}
    assert "20.0" in (folder / "cost.md").read_text()
