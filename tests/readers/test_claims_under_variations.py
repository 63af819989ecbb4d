"""Claims under a variation, its figure, and the page's words about it, from results made up with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from made_up import MadeUp
from rows import ROOT

from ldae.readers.figures import FIGURES, Inputs
from ldae.readers.report import write_page
from ldae.study.definitions import figure_definition, page_definition
from ldae.study.graph import Graph
from ldae.study.study import Study

SHARES = {"pca": 0.5, "predict_clean": 0.4, "single_level": 0.3, "pca_longer2": 0.4, "predict_clean_longer2": 0.5}
LONGER = {
    "text": "{value} x the steps",
    "rows": ["pca", "predict_clean"],
    "over": {"recipe.length": [0.5, 2]},
    "seeds": "0-4",
}


class Known(MadeUp):
    """Results of which row and seed decide the accuracy."""

    def _probe(self, place: str, offsets: Any, share: float, *, knn: float) -> Any:
        kind, row, *_ = place.split("/")
        if kind == "probe":
            seed = int(place.rpartition("seed")[2])
            share = SHARES.get(row, SHARES[row.partition("_longer")[0]]) + 0.01 * (seed % 3) * (row[:3] == "pca")
        return super()._probe(place, offsets, 0.1 if kind == "untrained" else share, knn=knn)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Known:
    folder = tmp_path_factory.mktemp("varied")
    values = yaml.safe_load((ROOT / "tests/study.yaml").read_text())
    figure = {"kind": "variation", "title": "Budget", "variation": "longer", "target": "none"}
    values |= {"seeds": "0-5", "variations": {"longer": LONGER}}
    values["figures"]["figure9"] = figure
    values["variants"]["single_level"]["seeds"] = "0-3"
    (folder / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    found = Known(Study.load(ROOT, {"study": folder / "study.yaml", "scale": "smoke"}), folder / "results")
    found.views()
    return found


def test_a_claim_is_judged_as_it_is_and_at_each_value_with_the_paired_change(made: Known) -> None:
    frame = pd.read_csv(made.folder / "tables/claims_longer.csv")
    assert frame["claim"].tolist() == ["clean_costs"] * 3
    assert frame["value"].tolist() == [1, 0.5, 2]
    assert frame["verdict"].tolist() == ["holds", "holds", "does not hold"]
    assert frame["estimate"].tolist() == pytest.approx([11.0, 10.8, -9.2])  # seeds 0-5; 0-4
    assert frame["n"].tolist() == [6, 5, 5]
    assert frame["change"].tolist()[1:] == pytest.approx([0.0, -20.0]) and np.isnan(frame["change"][0])
    assert frame["change_high"][2] < 0


def test_the_table_says_which_verdicts_differ_and_has_the_rows_accuracies(made: Known) -> None:
    text = (made.folder / "tables/claims_longer.md").read_text()
    assert "Depends on the longer: Predicting clean data costs accuracy." in text
    assert "2 x the steps" in text and "does not hold" in text
    (line,) = (line for line in text.splitlines() if line.startswith("| + predict clean data"))
    assert [cell.split()[0] for cell in line.strip("|").split("|")][1:] == ["40.0", "40.0", "50.0"]


def test_the_page_says_that_a_claim_depends_on_a_variation_if_that_was_judged(made: Known, tmp_path: Path) -> None:
    definition, cost = page_definition(Graph(made.study), "main", "all"), made.folder / "tables/cost_all.json"

    def page() -> str:
        write_page(definition, results=made.folder, cost=cost, out=tmp_path / "report.html")
        return (tmp_path / "report.html").read_text()

    said = "Depends on the longer: holds (as it is); holds (0.5 x the steps); does not hold (2 x the steps)."
    assert said in page()
    record = made.folder / "tables/claims_longer.json"
    before = record.read_text()
    try:
        record.write_text(before.replace("0.5 x the steps", "half the steps"))  # of another study
        assert "Depends on the" not in page()
        record.unlink()
        assert "Depends on the" not in page()
    finally:
        record.write_text(before)


def test_a_figure_has_a_panel_for_each_claim_and_words_for_its_verdicts(made: Known, tmp_path: Path) -> None:
    definition = figure_definition(made.graph, "figure9")
    figure, frame = FIGURES["variation"](definition, Inputs(made._results(definition)))
    (panel,) = (axes for axes in figure.axes if axes.get_visible())
    assert panel.get_xscale() == "log"
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0.5", "1", "2"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["holds", "does not hold", "margin"]
    assert frame["value"].tolist() == [1, 0.5, 2]


def test_steps_of_the_trajectory_are_paired_over_shared_seeds_and_marked_where_clear(made: Known) -> None:
    frame = pd.read_csv(made.folder / "figures/figure6.csv")
    assert frame["seeds"].tolist() == [6, 6, 4]
    assert frame["step"].tolist()[1:] == pytest.approx([-11.0, -10.0])
    assert (frame["step_high"][1:] < 0).all() and frame["step_is_clear"].tolist()[1:] == [True, True]
    assert frame["paper_step"][1] == pytest.approx(-2.7) and np.isnan(frame["paper_step"][2])
    text = (made.folder / "figures/figure6.svg").read_text()
    assert "step clear of zero (95 %)" in text and "−11.0 [" in text and "−2.7" in text


def test_one_seed_marks_no_step(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "tests/study.yaml").read_text())
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    single = Known(Study.load(ROOT, {"study": tmp_path / "study.yaml", "scale": "smoke"}), tmp_path / "results")
    single.views()
    frame = pd.read_csv(tmp_path / "results/figures/figure6.csv")
    assert frame["step"].tolist()[1:] == pytest.approx([-10.0, -10.0])
    assert frame["step_is_clear"].tolist()[1:] == [False, False]
    assert "one seed marks none" in (tmp_path / "results/figures/figure6.svg").read_text()
