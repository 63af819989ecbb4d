"""Tables, figures and verdicts, from results made up here so that the right answer is known."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pytest
from manifests import write_manifest, write_numbers

from ldae.readers.claims import paper_value, write_claims
from ldae.readers.figures import FIGURES, Inputs, write_figure
from ldae.readers.ranks import spearman
from ldae.readers.results import Results, collect
from ldae.readers.tables import operations, write_cost, write_table
from ldae.readers.verdicts import judge
from ldae.runtime.files import checksums, read_json, write_json
from ldae.study.definitions import (
    ClaimDefinition,
    ClaimsDefinition,
    FigureDefinition,
    RowDefinition,
    SeriesDefinition,
    TableDefinition,
    ViewDefinition,
)
from ldae.study.file import Paper
from ldae.study.record import CODE, PACKAGE, digest
from ldae.study.results import PIXELS, DistanceRecord, FinetuneRecord, ProbeEstimate, ProbeRecord

NUM, LINEAGE = 400, {"probe": {"revision": 1, "spec": {"features": {}}}}
PROVENANCE = {
    "started": 1000.0,
    "seconds": 10.0,
    "import_seconds": 2.0,
    "peak_memory_mb": 500,
    "device": "a processor",
    "commit": "abc",
}
TWO = ("second", "first")
SHARES = {"first": 0.4, "second": 0.5, "third": 0.42}  # of the images that each row gets right; random weights get 0.2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sums = write_numbers(tmp_path / "dataset", train=0, labels=np.arange(NUM) % 5, groups=np.arange(NUM) // 4)
    write_manifest(tmp_path / "dataset", classes="abcde", sha256=sums)
    for row, share in SHARES.items():
        for seed in (0, 1, 2):
            save(tmp_path / row / f"seed{seed}", row, seed, share + 0.01 * seed)
    for seed in (0, 1, 2):
        save(tmp_path / f"pixels/seed{seed}", PIXELS, seed, 0.1)
        save(tmp_path / f"untrained/seed{seed}", "untrained", seed, 0.2, knn=0.15)
    return tmp_path


def save(folder: Path, row: str, seed: int, share: float, *, knn: float = 0.3) -> None:
    folder.mkdir(parents=True)
    kinds = {"0/linear": share, "0/knn": knn, "finetuned": share + 0.1}
    order = np.random.default_rng(0).permutation(NUM)  # the same images are easy for all
    np.savez(
        folder / "correct.npz", **{kind: (order < round(NUM * part)).astype(np.uint8) for kind, part in kinds.items()}
    )
    estimates = {
        name: ProbeEstimate(value=kinds[name], low=0.0, high=1.0, correct=name) for name in kinds if name != "finetuned"
    }
    chosen = {"rate": 1.0, "rate_at_edge": row == "second"}
    estimates["0/linear"] = estimates["0/linear"].model_copy(update=chosen)
    blocks = {0: {measure: estimates[f"0/{measure}"] for measure in ("linear", "knn")}}
    about: dict[str, Any] = {"row": row, "seed": seed, "lineage": LINEAGE, "provenance": PROVENANCE}
    ProbeRecord(**about, blocks=blocks, training_flops=1e12).write(folder / "probe.json")
    tuned = {"top1": share, "top1_low": share, "top1_high": share, "parameters": 1, "training_flops": 1e12}
    FinetuneRecord(**about, run=row, **tuned).write(folder / "finetune.json")
    measured = {"value": 100 * share, "infinite": 90 * share, "error": 1.0, "judge_accuracy": 0.6}
    distance = DistanceRecord(**about, distance="Fréchet distance (judge)", num=1000, **measured)
    distance.write(folder / "distance.json")


SWEEP = SeriesDefinition(label="a sweep", rows=(("first", 8), ("second", 16)))
PAPER = {
    "second": Paper(probe=60.0, finetune=80.0, fid=20.0),
    "third": Paper(probe=61.0, fid=30.0),
}


View = TypeVar("View", bound=ViewDefinition)


def row_definitions(*names: str, seeds: Iterable[int]) -> tuple[RowDefinition, ...]:
    labels = {"second": "σ = √2 & more"}
    return tuple(
        RowDefinition(
            name=name,
            label=labels.get(name, name),
            paper=PAPER.get(name, Paper()),
            run=name,
            probe=name,
            untrained="untrained",
            offset=0,
            seeds=tuple(seeds),
            lineage=digest(LINEAGE),
            untrained_lineage=digest(LINEAGE),
            distance=digest(LINEAGE),
        )
        for name in names
    )


def a_table(seeds: list[int], *names: str, **more: Any) -> TableDefinition:
    """A table of rows, `second` and `first` if none are named."""
    about = {
        "name": "table",
        "title": "A title",
        "columns": ("linear", "knn"),
        "rows": row_definitions(*names or TWO, seeds=seeds),
    }
    return TableDefinition(**about | more, seeds=tuple(seeds), pixels=digest(LINEAGE))


def a_figure(kind: str, seeds: list[int], *names: str, **more: Any) -> FigureDefinition:
    about = {"name": "figure", "title": "A title", "kind": kind, "rows": row_definitions(*names or TWO, seeds=seeds)}
    return FigureDefinition(**about | more, seeds=tuple(seeds), pixels=digest(LINEAGE))


def a_claim(**values: Any) -> ClaimDefinition:
    return ClaimDefinition(**{"name": "c", "text": "A claim", "where": "here", "rows": TWO} | values)


def changed(wanted: View, place: int, **values: Any) -> View:
    """A view with other values of one of its rows."""
    changed_rows = list(wanted.rows)
    changed_rows[place] = changed_rows[place].model_copy(update=values)
    return wanted.model_copy(update={"rows": tuple(changed_rows)})


def results_of(folder: Path, wanted: ViewDefinition, *, judged: bool = False, tuned: str = "") -> Results:
    folders = [folder / row / f"seed{seed}" for row in SHARES for seed in wanted.seeds]
    return collect(
        wanted,
        dataset=folder / "dataset/manifest.json",
        probes=[path / "probe.json" for path in folders],
        untrained=sorted(folder.glob("untrained/*/probe.json")),
        pixels=sorted(folder.glob("pixels/*/probe.json")),
        finetunes=[path / "finetune.json" for path in folders if path.parent.name == tuned],
        distances=[path / "distance.json" for path in folders] if judged else [],
    )


def test_a_table_shows_accuracy_and_gain_with_intervals(folder: Path) -> None:
    wanted = a_table([0])
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
    assert re.search(r"Raw pixels: 10\.0 \[.*\], k-NN 30\.0\. Chance: 20\.0", text)
    assert frame["knn"].tolist() == [0.3, 0.3] and frame["knn_random"].tolist() == [0.15, 0.15]
    assert "smallest or largest tried for: σ = √2 & more." in text
    assert "FID" not in text
    latex = (folder / "table.tex").read_text()
    assert r"$\sigma$ = $\surd$2 \& more" in latex


def test_a_table_has_the_columns_that_it_names_in_their_order(folder: Path) -> None:
    def heading(columns: list[str]) -> list[str]:
        wanted = a_table([0], columns=columns)
        write_table(wanted, results_of(folder, wanted), out=folder / "table")
        line = (folder / "table.md").read_text().split("\n")[2]
        return [cell.strip() for cell in line.strip("|").split("|")]

    accuracy = ["paper", "accuracy", "gain over random", "random weights"]
    assert heading(["knn", "linear"]) == ["row", "k-NN", *accuracy]
    assert heading(["linear"]) == ["row", *accuracy]
    assert "k-NN: a vote" not in (folder / "table.md").read_text()


def test_a_number_that_is_not_an_accuracy_has_an_interval_over_seeds_alone(folder: Path) -> None:
    for seed in (0, 1, 2):
        for probe, value in (("first", 10.0 + seed), ("untrained", 4.0)):
            path = folder / f"{probe}/seed{seed}/probe.json"
            about = read_json(path)
            about["blocks"]["0"]["spread"] = {"value": value, "low": value, "high": value}
            write_json(path, about)
    results = results_of(folder, a_table([0, 1, 2], "first"))
    spread = results.rows["first"].measures["spread"]
    value, low, high, rerun = spread.trained
    assert value == pytest.approx(11.0) and high - value == pytest.approx(value - low)
    assert high - value == pytest.approx(4.303 / 3**0.5, rel=1e-3)  # the t-interval of 10, 11 and 12
    assert rerun is not None and rerun[1] == pytest.approx(11.0 + 4.303 * (4 / 3) ** 0.5, rel=1e-3)
    assert spread.gain.value == pytest.approx(7.0)
    single = results_of(folder, a_table([0], "first")).rows["first"].measures["spread"]
    assert single.trained == (10.0, 10.0, 10.0, None)


def test_a_record_in_another_format_is_named(folder: Path) -> None:
    path = folder / "first/seed0/probe.json"
    about = read_json(path)
    about["blocks"]["0"]["linear"] = {"top1": 0.4}
    write_json(path, about)
    with pytest.raises(ValueError, match=rf"{path}: unknown key 'blocks.0.linear.top1'.*run its job again"):
        results_of(folder, a_table([0], "first"))


def test_seeds_give_mean_and_spread(folder: Path) -> None:
    wanted = a_table([0, 1])
    write_table(wanted, results_of(folder, wanted), out=folder / "table")
    frame = pd.read_csv(folder / "table.csv")
    assert frame["accuracy"].tolist() == pytest.approx([0.505, 0.405])
    assert frame["seed1"].tolist() == pytest.approx([0.51, 0.41])
    assert "± 0.7" in (folder / "table.md").read_text()


def test_a_number_of_the_studys_own_judge_is_not_called_fid(folder: Path) -> None:
    wanted = a_table([0, 1])
    write_table(wanted, results_of(folder, wanted, judged=True), out=folder / "table")
    text = (folder / "table.md").read_text()
    header = next(line for line in text.splitlines() if line.startswith("| row"))
    assert "Fréchet distance (judge)" in header
    assert "paper, FID" in header
    assert "60.0 % accuracy on validation images; it is no FID" in text
    frame = pd.read_csv(folder / "table.csv")
    assert frame["distance_infinite"].tolist() == pytest.approx([45.45, 36.45])
    # two seeds of standard error 1, 0.9 apart
    assert frame["distance_error"].tolist() == pytest.approx([np.hypot(1 / np.sqrt(2), 0.45)] * 2)


def test_a_table_of_fine_tuned_rows_shows_what_that_gave(folder: Path) -> None:
    wanted = a_table([0, 1])
    wanted = changed(wanted, 0, finetuned=digest(LINEAGE))
    write_table(wanted, results_of(folder, wanted, tuned="second"), out=folder / "table")
    frame = pd.read_csv(folder / "table.csv")
    assert frame["finetuned"].tolist() == pytest.approx([0.605, np.nan], nan_ok=True)
    assert frame["paper_finetuned"][0] == 80.0
    text = (folder / "table.md").read_text()
    header, _, first, second = (line for line in text.splitlines() if line.startswith("|"))
    columns = [column.strip() for column in header.split("|")]
    shown = [dict(zip(columns, (c.strip() for c in line.split("|")), strict=True)) for line in (first, second)]
    assert [line["paper, fine-tuned"] for line in shown] == ["80.0", ""]
    assert shown[0]["fine-tuned"].startswith("60.5 [") and shown[1]["fine-tuned"] == ""
    assert "Fine-tuned: the encoder trained end to end" in text


def test_a_fine_tuning_that_is_missing_or_of_another_specification_is_named(folder: Path) -> None:
    wanted = a_table([0])
    wanted = changed(wanted, 0, finetuned=digest(LINEAGE))
    with pytest.raises(ValueError, match="row second, seed 0: no fine-tuning"):
        results_of(folder, wanted, tuned="first")
    wanted = changed(wanted, 0, finetuned="another")
    with pytest.raises(ValueError, match=r"second/seed0/finetune.json: made from another specification"):
        results_of(folder, wanted, tuned="second")


def test_a_table_says_what_a_perceptual_loss_has_compared(folder: Path) -> None:
    wanted = a_table([0])
    about = {"kind": "conv", "dims": 16, "psnr": {"16": 20.0}, "collapsed_dims": 0, "perceptual": "builtin", "seed": 0}
    write_json(folder / "tokenizer.json", about | {"lineage": {}})
    write_table(wanted, results_of(folder, wanted), tokenizers=[folder / "tokenizer.json"], out=folder / "table")
    assert "The perceptual loss (builtin) compares" in (folder / "table.md").read_text()


def test_a_row_that_is_named_twice_has_two_lines(folder: Path) -> None:
    wanted = a_table([0])
    again = wanted.rows[0].model_copy(update={"label": "the same in a sweep", "paper": Paper(probe=61.5)})
    wanted = wanted.model_copy(update={"rows": (*wanted.rows, again)})
    write_table(wanted, results_of(folder, wanted), out=folder / "table")
    frame = pd.read_csv(folder / "table.csv")
    assert frame["label"].tolist() == ["σ = √2 & more", "first", "the same in a sweep"]
    assert frame["paper"].tolist()[::2] == [60.0, 61.5]
    assert frame["accuracy"][0] == frame["accuracy"][2]


def test_a_table_of_series_has_a_column_for_each_value(folder: Path) -> None:
    wanted = a_table([0], series=[SWEEP])
    fits = {"conv": {"8": 20.5}, "pca": {"8": 21.0, "16": 22.0}}
    for kind, psnr in fits.items():
        write_json(
            folder / f"{kind}.json",
            {"kind": kind, "dims": 16, "psnr": psnr, "collapsed_dims": 3, "seed": 0, "lineage": {}},
        )
    write_table(
        wanted,
        results_of(folder, wanted),
        tokenizers=[folder / "pca.json", folder / "conv.json"],
        out=folder / "table",
    )
    lines = [[cell.strip() for cell in line.split("|")] for line in (folder / "table.md").read_text().splitlines()]
    assert ["", "", "8", "16", ""] in lines
    assert any(line[1:2] == ["a sweep"] and line[2].startswith("40.0") for line in lines)
    assert any(line[1:2] == ["- the paper"] and line[3] == "60.0" for line in lines)
    assert ["", "convolutional VAE", "20.5, 3 unused", "", ""] in lines
    assert ["", "patch-wise PCA", "21.0", "22.0", ""] in lines


def test_a_seed_that_did_not_train_is_named_below_the_table(folder: Path) -> None:
    shutil.rmtree(folder / "first/seed1")
    save(folder / "first/seed1", "first", 1, 0.22)
    wanted = a_table([0, 1, 2])
    write_table(wanted, results_of(folder, wanted), out=folder / "table")
    text = (folder / "table.md").read_text()
    assert "Seed 1 of “first” did not train as the others did: 22.0 beside 40.0 and 42.0 (random weights 20.0)." in text
    assert "of “σ = √2 & more” did not" not in text


def test_a_table_explains_its_columns(folder: Path) -> None:
    wanted = a_table([0, 1])
    write_table(wanted, results_of(folder, wanted), out=folder / "table")
    text = (folder / "table.md").read_text()
    assert "± over seeds: the standard deviation" in text and "k-NN: a vote" in text


@pytest.mark.parametrize(
    ("count", "text"), [(3.2e11, "0.32 TFLOP"), (1.2e12, "1.2 TFLOP"), (4.0e20, "0.4 ZFLOP"), (None, "")]
)
def test_operations_are_counted_in_a_unit_that_people_read(count: float | None, text: str) -> None:
    assert operations(count) == text


def test_latex_has_minus_signs(folder: Path) -> None:
    wanted = a_table([0], "third", "classical-dae", "first")
    wanted = changed(wanted, 1, probe="pixels")
    save(folder / "classical-dae/seed0", "pixels", 0, 0.05)
    results = collect(
        wanted,
        dataset=folder / "dataset/manifest.json",
        probes=[folder / f"{name}/seed0/probe.json" for name in ("third", "classical-dae", "first")],
        untrained=sorted(folder.glob("untrained/*/probe.json")),
        pixels=sorted(folder.glob("pixels/*/probe.json")),
    )
    write_table(wanted, results, out=folder / "table")
    latex = (folder / "table.tex").read_text()
    assert "$-$15.0 [$-$" in latex and "classical-dae" in latex
    assert "-15.0 [-" in (folder / "table.md").read_text()


@pytest.mark.parametrize(("lineage", "probe"), [("lineage", "first"), ("untrained_lineage", "untrained")])
def test_results_of_another_specification_are_refused(lineage: str, probe: str, folder: Path) -> None:
    wanted = a_table([0])
    wanted = changed(wanted, 1, **{lineage: digest({"probe": {"revision": 2, "spec": {}}})})
    with pytest.raises(ValueError, match=rf"{probe}/seed0/probe.json: made from another specification"):
        results_of(folder, wanted)


def test_a_missing_result_is_named(folder: Path) -> None:
    wanted = a_table([0])
    with pytest.raises(ValueError, match="row second, seed 0: no probe"):
        collect(
            wanted,
            dataset=folder / "dataset/manifest.json",
            probes=[folder / "first/seed0/probe.json"],
            untrained=sorted(folder.glob("untrained/*/probe.json")),
            pixels=sorted(folder.glob("pixels/*/probe.json")),
        )


def test_a_trajectory_tells_its_numbers(folder: Path) -> None:
    wanted = a_figure("trajectory", [0])
    write_figure(wanted, Inputs(results_of(folder, wanted, judged=True)), out=folder / "one")
    frame = pd.read_csv(folder / "one.csv")
    assert frame["accuracy"].tolist() == pytest.approx([0.5, 0.4])
    assert frame["distance"].tolist() == pytest.approx([45.0, 36.0])
    assert frame["paper_fid"].tolist()[0] == 20.0
    text = (folder / "one.svg").read_text()
    assert "linear probe" in text and "FID-50K" in text and "Fréchet distance" in text


@pytest.mark.parametrize("kind", ["trajectory", "dimension"])
def test_the_interval_of_two_seeds_does_not_stretch_an_axis_beyond_what_can_be(kind: str, folder: Path) -> None:
    shutil.rmtree(folder / "first/seed1")
    save(folder / "first/seed1", "first", 1, 0.9)
    wanted = a_figure(kind, [0, 1], series=[SWEEP])
    results = results_of(folder, wanted)
    assert results.rows["first"].accuracy.low < -1 and results.rows["first"].accuracy.high > 2
    figure, _ = FIGURES[kind](wanted, Inputs(results))
    along = "x" if kind == "trajectory" else "y"
    limits = [getattr(figure.axes[place], f"get_{along}lim")() for place in (0, -1)]
    assert all(-5 < low < high < 105 for low, high in limits)
    assert limits[0][1] - limits[0][0] == pytest.approx(limits[1][1] - limits[1][0])


@pytest.mark.parametrize("kind", ["trajectory", "dimension"])
def test_where_the_paper_has_no_number_its_panel_is_left_out(kind: str, folder: Path) -> None:
    wanted = a_figure(kind, [0], "first", series=[SeriesDefinition(label="a sweep", rows=(("first", 8),))])
    figure, _ = FIGURES[kind](wanted, Inputs(results_of(folder, wanted)))
    assert [axes.get_title() for axes in figure.axes if axes.get_visible() and axes.axison] == ["Ours"]


ODD = [r"costs $\frac{$", "$", "a" * 90, "Größe & <b>", "100 % \\alpha_{"]


@pytest.mark.parametrize("label", ODD)
def test_any_label_can_be_drawn(label: str, folder: Path) -> None:
    wanted = changed(a_figure("trajectory", [0, 1]), 0, label=label)
    write_figure(wanted, Inputs(results_of(folder, wanted)), out=folder / "one")
    svg = "".join(re.findall(r"<text[^>]*>([^<]*)</text>", (folder / "one.svg").read_text()))
    assert html.unescape(svg).replace(" ", "").find(label.replace(" ", "")[:20]) >= 0
    history = folder / "first/seed0/history.csv"
    history.write_text("step,images,loss,gradient_norm\n1,16,0.5,1.0\n2,32,0.4,0.5\n")
    wanted = changed(a_figure("curves", [0], "first"), 0, label=label)
    write_figure(wanted, Inputs(histories=[history]), out=folder / "two")


def test_rows_of_the_same_label_each_have_their_samples(folder: Path) -> None:
    for run in ("first", "second"):
        images = np.zeros((4, 3, 16, 16), np.uint8)
        np.save(folder / f"{run}/seed0/examples.npy", images)
        write_json(folder / f"{run}/seed0/samples.json", {"sha256": checksums(folder / f"{run}/seed0/examples.npy")})
    wanted = changed(changed(a_figure("samples", [0]), 0, label="the same"), 1, label="the same")
    paths = [folder / f"{run}/seed0/examples.npy" for run in ("first", "second")]
    write_figure(wanted, Inputs(samples=paths), out=folder / "samples")
    assert len(pd.read_csv(folder / "samples.csv")) == 8


USERS = {  # what somebody may have set for their own plots
    "a notebook's backend": ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, ""),
    "a backend that is not installed": ({"MPLBACKEND": "nonsense"}, ""),
    "a screen's backend": ({"MPLBACKEND": "QtAgg", "DISPLAY": ""}, ""),
    "settings in the project's folder": ({}, "text.usetex: True\nfont.size: 30\nsavefig.facecolor: red\n"),
    "settings elsewhere": ({"MATPLOTLIBRC": "elsewhere"}, ""),
    "settings that cannot be read": ({}, "font.family: café\n"),
    "a home that cannot be written": ({"MPLCONFIGDIR": "/proc/nowhere", "HOME": "/proc/nowhere"}, ""),
    "a language that is not installed": ({"LC_ALL": "xx_XX.UTF-8"}, "axes.formatter.use_locale: True\n"),
}
DRAW = """
import sys
from pathlib import Path
from ldae.readers.figures import Inputs, write_figure
from ldae.study.definitions import FigureDefinition
about = {"name": "a", "title": "A", "kind": "schedules", "rows": (), "seeds": (0,), "pixels": ""}
definition = FigureDefinition(**about, schedules={"a schedule": "gamma2"})
write_figure(definition, Inputs(), out=Path(sys.argv[1]) / "figure")
"""


def drawn(folder: Path, variables: dict[str, str]) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    names = ("MPLBACKEND", "MATPLOTLIBRC", "MPLCONFIGDIR")
    environment = {name: value for name, value in os.environ.items() if name not in names} | variables
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", DRAW, str(folder)]
    said = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    return {path.suffix: path.read_bytes() for path in folder.glob("figure.*")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return drawn(tmp_path_factory.mktemp("undisturbed"), {})


@pytest.mark.parametrize("case", USERS)
def test_a_figure_is_the_same_whatever_the_user_has_set(
    case: str, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    variables, settings = USERS[case]
    (tmp_path / "elsewhere").write_bytes(b"font.family: caf\xe9\nbackend: QtAgg\n")
    if settings:
        (tmp_path / "matplotlibrc").write_text(settings, encoding="latin-1")
    assert drawn(tmp_path, variables) == undisturbed
    assert set(undisturbed) == {".png", ".svg", ".csv"}


def test_importing_the_figures_leaves_the_users_environment_alone() -> None:
    code = "import os, ldae.readers.figures; print(os.environ.get('MPLBACKEND'), os.environ.get('MATPLOTLIBRC'))"
    environment = os.environ | {"MPLBACKEND": "svg"}
    environment.pop("MATPLOTLIBRC", None)
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["svg", "None"]


def test_the_code_that_a_view_follows_is_all_there() -> None:
    patterns = {pattern for of in CODE.values() for pattern in of}
    assert [pattern for pattern in patterns if not any(PACKAGE.glob(pattern))] == []


SUM = a_claim(text="second beats first", sum={"second": 1, "first": -1}, above=0)
NO_MARGIN = dict.fromkeys(("above", "below", "within"))


@pytest.mark.parametrize(
    ("margin", "word"),
    [
        ({"above": 0}, "holds"),
        ({"above": 9.5}, "undecided"),
        ({"above": 30}, "does not hold"),
        ({"below": 30}, "holds"),
        ({"below": 0}, "does not hold"),
        ({"within": 30}, "holds"),
        ({"within": 1}, "does not hold"),
        ({"within": 10}, "undecided"),
    ],
)
def test_a_verdict_is_where_the_interval_lies(margin: dict[str, float], word: str, folder: Path) -> None:
    """The difference is 10 points on the same images, whose interval over groups is some 3 points wide."""
    wanted = a_table([0, 1, 2])
    finding = judge(SUM.model_copy(update=NO_MARGIN | margin), results_of(folder, wanted), "accuracy")
    assert finding.quantity is not None
    assert finding.quantity.value == pytest.approx(10.0)
    assert 5 < finding.quantity.low < 10 < finding.quantity.high < 15
    assert finding.verdict == word


def test_a_weighted_sum_of_rows_is_resampled_as_one(folder: Path) -> None:
    wanted = a_table([0, 1, 2], "first", "second", "third")
    results = results_of(folder, wanted)
    same = judge(a_claim(sum={"first": 1, "second": -1, "third": 0}, above=0), results, "accuracy").quantity
    assert same is not None and same.value == pytest.approx(-10.0)
    nothing = judge(a_claim(sum={"first": 0.5, "second": -1, "third": 0.5}, above=0), results, "gain").quantity
    assert nothing is not None and nothing.value == pytest.approx(-9.0)


@pytest.mark.parametrize(("among", "word"), [([16], "holds"), ([8], "does not hold"), ([8, 32], "does not hold")])
def test_a_peak_is_found_where_it_is(among: list[int], word: str, folder: Path) -> None:
    wanted = a_table([0, 1, 2], "first", "second", "third")
    points = (("first", 8), ("second", 16), ("third", 32))
    finding = judge(a_claim(peak="dims", points=points, among=among), results_of(folder, wanted), "accuracy")
    assert finding.verdict == word
    assert finding.text.startswith("best at 16")


def test_rank_correlation_is_spearmans() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 5, 7))
    expected = [spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(spearman(first, second), expected, rtol=1e-12)


def test_accuracy_and_quality_that_rise_together_are_correlated(folder: Path) -> None:
    """In these results the distance grows with accuracy, so quality falls with it."""
    wanted = a_table([0, 1, 2], "first", "second", "third")
    ranked = a_claim(rank=["first", "second", "third"], below=0.5)
    finding = judge(ranked, results_of(folder, wanted, judged=True), "accuracy")
    assert finding.quantity is not None
    assert finding.quantity.value == pytest.approx(-1.0)
    assert finding.verdict == "holds"


def test_the_papers_side_of_a_claim_comes_from_its_own_numbers() -> None:
    papers = {"a": Paper(probe=60.0, fid=20.0), "b": Paper(probe=62.5, fid=10.0), "c": Paper()}
    assert paper_value(a_claim(sum={"b": 1, "a": -1}, above=0), papers) == "+2.5"
    assert paper_value(a_claim(sum={"b": 1, "c": -1}, above=0), papers) == ""
    points = (("a", 8), ("b", 16), ("c", 32))
    assert paper_value(a_claim(peak="dims", points=points, among=[8]), papers) == "best at 16"
    assert paper_value(a_claim(rank=["a", "b"], above=0), papers) == "+1.00"
    assert paper_value(a_claim(rank=["a", "c"], above=0), papers) == ""


def test_one_seed_never_makes_a_claim_hold(folder: Path) -> None:
    claims = (SUM, SUM.model_copy(update={"above": 30, "text": "by 30 points"}))
    for seeds in ((0,), (0, 1, 2)):
        wanted = ClaimsDefinition(
            rows=row_definitions(*TWO, seeds=seeds), seeds=seeds, pixels=digest(LINEAGE), claims=claims
        )
        judgement = write_claims(wanted, results_of(folder, wanted), out=folder / "claims")
        text = (folder / "claims.md").read_text()
        lines = [line for line in text.splitlines() if line.startswith(("| second", "| by 30"))]
        verdicts = [line.split("|")[5].strip() for line in lines]
        assert len(judgement.given("holds")) == (len(seeds) > 1)
        if len(seeds) == 1:
            assert verdicts == ["undecided (one seed, points to: holds)", "does not hold (one seed)"]
            assert "no claim can hold by it alone" in text
        else:
            assert verdicts == ["holds", "does not hold"]
        assert "would be given by chance" in text


def test_claims_are_written_with_their_numbers_in_full(folder: Path) -> None:
    seeds = (0, 1, 2)
    rows = row_definitions(*TWO, seeds=seeds)
    wanted = ClaimsDefinition(rows=rows, seeds=seeds, pixels=digest(LINEAGE), claims=(SUM,))
    write_claims(wanted, results_of(folder, wanted), out=folder / "claims")
    (line,) = pd.read_csv(folder / "claims.csv").to_dict("records")
    assert (line["verdict"], line["n"]) == ("holds", 3)
    assert line["estimate"] == pytest.approx(10.0) and line["s"] == pytest.approx(0.0, abs=1e-6)
    assert line["low"] < 10 < line["high"] and line["prediction_low"] == pytest.approx(10.0)
    assert line["n_needed_low"] <= line["n_needed_high"]
    assert line["gain_verdict"] == "holds"


@pytest.mark.parametrize(
    ("own_splits", "shared", "text"),
    [
        (True, (), "the mean over splits, tokenizers and networks for these images, not for others."),
        (
            False,
            (),
            "the mean over tokenizers and networks for these images, not for others; all seeds share the split.",
        ),
        (
            True,
            ("tokenizer",),
            "over splits and networks for these images, not for others; all seeds share the tokenizers.",
        ),
        (
            False,
            ("dataset", "tokenizer", "classifier"),
            "over networks for these images, not for others; all seeds share the split, tokenizers and perceptual "
            "classifier.",
        ),
    ],
)
def test_a_table_says_what_its_numbers_estimate(
    own_splits: bool, shared: tuple[str, ...], text: str, folder: Path
) -> None:
    wanted = a_table([0, 1]).model_copy(update={"own_splits": own_splits, "shared": shared})
    write_table(wanted, results_of(folder, wanted), out=folder / "table")
    assert text in (folder / "table.md").read_text()


def test_costs_are_added_up_by_stage(folder: Path) -> None:
    write_json(folder / "run.json", {"row": "first", "seed": 0, "provenance": PROVENANCE})
    write_json(folder / "tokenizer.json", {"provenance": PROVENANCE | {"started": 1020.0}})
    files = [folder / "run.json", folder / "tokenizer.json"]
    probes = [folder / f"first/seed{seed}/probe.json" for seed in (0, 1)]
    write_cost([*files, *probes], out=folder / "cost")
    frame = pd.read_csv(folder / "cost.csv")
    assert frame.groupby("stage")["seconds"].sum().to_dict() == {"pretrain": 10.0, "probe": 20.0, "tokenizer": 10.0}
    text = (folder / "cost.md").read_text()
    assert "imports 20.0 %" in text
    assert "0.5 minutes: on average 1.33 jobs were running" in text
