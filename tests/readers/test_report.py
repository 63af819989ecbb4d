"""The page: its parts, read as HTML; and the whole, looked at in a real browser."""

from __future__ import annotations

import base64
import csv
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import yaml
from made_up import MadeUp
from manifests import write_images, write_manifest
from PIL import Image
from rows import ROOT

from ldae.measures.intervals import Estimate
from ldae.readers.claims import JudgedClaim, Judgement
from ldae.readers.figures import FIGURES
from ldae.readers.figures.style import PALETTE
from ldae.readers.layout import RowNumbers, TableRecord
from ldae.readers.report import write_page
from ldae.readers.report.data import contact_sheet
from ldae.readers.report.words import best, cautions, findings
from ldae.readers.verdicts import ClaimFinding
from ldae.runtime.files import read_json, write_json
from ldae.study.definitions import page_definition
from ldae.study.file import Paper
from ldae.study.graph import Graph
from ldae.study.study import Study

if TYPE_CHECKING:
    from browser import Browser

EVIL = "</script><img src=x>\"'&|σ"
VOID = {"meta", "link", "img", "input", "br"}


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the text of each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        assert self._open == [], "a tag is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self._open:
            self.texts.setdefault(tag, []).append(data)

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.found if attribute in attributes]


def study_of(folder: Path) -> Study:
    """The tests' study with every kind of view, under words that are HTML."""
    values = yaml.safe_load((ROOT / "tests/every_rule.yaml").read_text())
    values["seeds"] = [0, 1]
    values["variants"]["pca"]["label"] = EVIL
    values["tables"]["table1"]["title"] = f"Rows {EVIL}"
    values["figures"]["figure6"] |= {"title": f"</title></style>{EVIL}", "rows": ["dit", "pca", "patch_vae", "mae"]}
    values["claims"]["labels_hurt"]["text"] = f"A sum {EVIL}"
    values["claims"]["near"] = {"text": "Within", "where": "Sec. 1", "sum": {"pca": 1, "mae": -1}, "within": 1}
    (folder / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return Study.load(ROOT, {"study": folder / "study.yaml", "scale": "smoke"})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeUp:
    folder = tmp_path_factory.mktemp("page")
    found = MadeUp(study_of(folder), folder / "results")
    cost = found.views()
    write_page(
        page_definition(Graph(found.study), "main", "all"),
        results=found.folder,
        cost=cost,
        out=found.folder / "report.html",
    )
    return found


@pytest.fixture(scope="module")
def page(made: MadeUp) -> Path:
    return made.folder / "report.html"


@pytest.fixture(scope="module")
def tags(page: Path) -> Tags:
    return Tags(page.read_text(encoding="utf-8"))


def test_every_table_figure_and_row_is_there(made: MadeUp, tags: Tags) -> None:
    ids, file = tags.values("id"), made.study.file
    assert len(ids) == len(set(ids))
    assert {f"table-{name}" for name in file.tables} <= set(ids)
    assert {f"figure-{name}" for name in file.figures} <= set(ids)
    assert {f"row-{name}" for name in made.study.variants} <= set(ids)
    assert {"trajectory", "claims", "training", "cost", "configuration"} <= set(ids)
    assert ids.index("trajectory") < ids.index("claims") < ids.index("tables") < ids.index("pictures")


def test_every_link_leads_somewhere(made: MadeUp, tags: Tags) -> None:
    links = [attributes["href"] for tag, attributes in tags.found if tag == "a"]
    assert len(links) > 30
    ids = set(tags.values("id"))
    for link in links:
        inside = link.startswith("#") and link[1:] in ids
        assert inside or link.startswith("data:") or (made.folder / link).is_file(), link


def test_nothing_is_fetched(tags: Tags) -> None:
    sources = [*tags.values("src"), *(a["href"] for tag, a in tags.found if tag == "link")]
    assert len(sources) >= 7
    assert all(source.startswith("data:") for source in sources)
    assert not {"srcset", "action", "style", "background"} & {name for _, a in tags.found for name in a}
    assert "url(" not in "".join(tags.texts["style"]) and "@import" not in "".join(tags.texts["style"])
    (policy,) = (a["content"] for _, a in tags.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; script-src 'sha256-")


def test_words_of_the_study_are_never_markup(tags: Tags) -> None:
    assert [attributes for _, attributes in tags.found if any(name.startswith("on") for name in attributes)] == []
    assert sum(tag == "script" for tag, _ in tags.found) == 2
    assert "x" not in tags.values("src")
    assert EVIL in "".join(tags.texts["td"] + tags.texts["th"])
    assert f"A sum {EVIL}" in "".join(tags.texts["li"])
    assert EVIL in "".join(tags.texts["figcaption"])


def test_the_numbers_are_those_of_the_tables(made: MadeUp, tags: Tags) -> None:
    cells = " ".join("".join(tags.texts["td"]).split())
    with (made.folder / "tables/table1.csv").open() as file:
        records = list(csv.DictReader(file))
    assert len(records) == 6
    for record in records:
        value, low, high = (100 * float(record[f"accuracy{end}"]) for end in ("", "_low", "_high"))
        shown = f"{value:.1f} [{low:.1f}, {high:.1f}]".replace("-", "−")
        assert shown.replace(" ", "") in cells.replace(" ", "")
    notes = "".join(tags.texts["p"])
    assert "200 validation images in 50 groups, 2 seeds" in notes
    assert "it is no FID" in notes


def test_a_table_has_one_layout(made: MadeUp, page: Path, tmp_path: Path) -> None:
    for name in made.study.file.tables:
        layout = TableRecord.read(made.folder / f"tables/{name}.json").layout
        assert layout.markdown() + "\n" == (made.folder / f"tables/{name}.md").read_text()
    folder = shutil.copytree(made.folder, tmp_path / "results")
    for ending in ("csv", "md", "tex"):
        for path in (folder / "tables").glob(f"*.{ending}"):
            path.unlink()
    definition = page_definition(Graph(made.study), "main", "all")
    write_page(definition, results=folder, cost=folder / "tables/cost_all.json", out=tmp_path / "page.html")
    alone, whole = (Tags(path.read_text()) for path in (tmp_path / "page.html", page))
    assert alone.texts["table"] == whole.texts["table"] and alone.texts["li"] == whole.texts["li"]


def test_each_number_has_its_origin(made: MadeUp, tags: Tags) -> None:
    text = " ".join("".join(tags.texts["details"]).split())
    for part in ("pretrain/dit/seed1/run.json", "probe/mae/seed0/probe.json", "judge/pca/seed1/distance.json"):
        assert part in text
    for part in ("0123456789ab", "torch 2.15.0", "a processor", "2023-11-14", "tokenizer.kind: pca → patch_vae"):
        assert part in text
    assert '{"tokenizer":{"kind":"patch_vae"}}' in text
    shared = "".join(tags.texts["section"])
    assert (
        "tokenizers/patch_vae-32/seed0/tokenizer.json" in shared
        and "classifiers/resnet/seed0/classifier.json" in shared
    )


@pytest.mark.parametrize("kind", FIGURES)
def test_a_figure_is_the_same_bytes_every_time(kind: str, made: MadeUp, tmp_path: Path) -> None:
    (name,) = (name for name, figure in made.study.file.figures.items() if figure.kind == kind)
    before, again = made.folder / "figures" / name, tmp_path / name
    made.draw(name, out=again)
    for ending in (".png", ".svg", ".csv"):
        assert again.with_suffix(ending).read_bytes() == before.with_suffix(ending).read_bytes()
    with Image.open(again.with_suffix(".png")) as image:
        colours = image.convert("RGB").getcolors(1 << 24)
        assert image.width > 600 and colours is not None and len(colours) > 20
    assert len(pd.read_csv(again.with_suffix(".csv"))) >= 2


def test_a_main_page_shows_what_main_has(made: MadeUp, tmp_path: Path) -> None:
    definition = page_definition(Graph(made.study), "main")
    write_page(
        definition, results=made.folder, cost=made.folder / "tables/cost_all.json", out=tmp_path / "report_main.html"
    )
    ids = Tags((tmp_path / "report_main.html").read_text()).values("id")
    assert "table-table1" in ids and "table-table2" not in ids
    assert "claims" not in ids and "figure-samples" not in ids and "row-pixel_d48" not in ids


def test_what_is_not_there_is_said(made: MadeUp, tmp_path: Path) -> None:
    for folder in ("tables", "figures"):
        shutil.copytree(made.folder / folder, tmp_path / folder)
    (tmp_path / "tables/table2.json").unlink()
    write_page(
        page_definition(Graph(made.study), "main", "all"),
        results=tmp_path,
        cost=tmp_path / "nowhere.json",
        out=tmp_path / "page.html",
    )
    found = Tags((tmp_path / "page.html").read_text())
    text = "".join(found.texts["p"])
    assert "Not made yet: Series." in text
    assert "There are no records of its runs beside this page." in text
    assert not {"cost", "training", "table-table2"} & set(found.values("id"))


@pytest.mark.parametrize(
    "path", ["pretrain/dit/seed0/run.json", "probe/mae/seed1/probe.json", "judge/pca/seed0/distance.json"]
)
def test_a_result_of_another_specification_is_refused(path: str, made: MadeUp, tmp_path: Path) -> None:
    folder = shutil.copytree(made.folder, tmp_path / "results")
    about = read_json(folder / path)
    about["lineage"]["pretrain"]["revision"] = 7
    write_json(folder / path, about)
    with pytest.raises(ValueError, match=f"{path}: made from another specification"):
        write_page(
            page_definition(Graph(made.study), "main", "all"),
            results=folder,
            cost=folder / "tables/cost_all.json",
            out=tmp_path / "x.html",
        )
    assert not (tmp_path / "x.html").exists()


def test_the_reference_results_make_a_page_below_five_megabytes(tmp_path: Path) -> None:
    study = Study.load(ROOT, {"scale": "laptop", "seeds": "[0,1,2]"})
    results = ROOT / "results/reference"
    write_page(
        page_definition(Graph(study), "main", "all"),
        results=results,
        cost=results / "tables/cost.json",
        out=tmp_path / "page.html",
    )
    assert 1_000_000 < (tmp_path / "page.html").stat().st_size < 5_000_000


def measured(label: str, accuracy: float, *, gain: float = 0.1, around: float = 0.02) -> RowNumbers:
    return RowNumbers(
        name=label,
        label=label,
        accuracy=Estimate(accuracy, accuracy - around, accuracy + around),
        random=Estimate(accuracy - gain, 0.0, 1.0),
        gain=Estimate(gain, gain - 0.05, gain + 0.05),
    )


def judged(*verdicts: str, one_seed: bool = False) -> Judgement:
    quantity = Estimate(1.0, -0.5, 2.5)
    claims = [
        JudgedClaim(
            name=f"claim{n}",
            text=f"claim {n}",
            where="Table 1",
            rows=("pca",),
            paper="+2.0",
            accuracy=ClaimFinding(quantity=quantity, text="+1.0 [-0.5, +2.5]", verdict=verdict),
            gain=ClaimFinding(quantity=quantity, text="+1.0 [-0.5, +2.5]", verdict=verdict),
            one_seed=one_seed,
        )
        for n, verdict in enumerate(verdicts)
    ]
    return Judgement(claims=tuple(claims))


def test_the_best_row_is_undecided_where_another_interval_reaches_it() -> None:
    rows = [measured("a", 0.30), measured("b", 0.33), measured("c", 0.10, gain=-0.2), measured("d", 0.2, gain=0.01)]
    said = best(rows).text
    assert "“b” has the highest accuracy, 33.0 % [31.0, 35.0]; with random weights it has 23.0 %." in said
    assert "Which row is best is undecided; its interval overlaps with: “a” (30.0)." in said
    assert "in 4 rows: positive in 2, negative in 1, undecided in 1." in said


def test_a_row_is_the_best_only_where_no_other_interval_reaches_it() -> None:
    assert "The intervals of all other rows lie below its own." in best([measured("a", 0.3), measured("b", 0.4)]).text
    assert "undecided" in best([measured("a", 0.30), measured("b", 0.34)]).text  # which touch


def test_what_holds_and_what_does_not_is_listed_and_counted() -> None:
    claims = judged("holds", "does not hold", *["holds"] * 4, "undecided", "undecided")
    first, holds, fails, undecided = findings([measured("a", 0.3)], [], claims)
    assert first.heading == "Best"
    assert holds.heading == "Holds" and holds.text == "5 of the paper's 8 claims:"
    assert len(holds.items) == 4 and holds.items[-1] == "and 2 more"
    assert holds.items[0] == "claim 0: +1.0 [-0.5, +2.5] points, in the paper +2.0"
    assert fails.heading == "Does not hold" and fails.text == "1 of the paper's 8 claims:" and len(fails.items) == 1
    assert undecided.text == "2 of the paper's 8 claims, with intervals that reach the margin." and not undecided.items
    *_, untested = findings([measured("a", 0.3)], [], judged("holds", "not tested"))
    assert untested.heading == "Not tested" and untested.text.startswith("1 of the paper's 2 claims, because rows")


def test_one_seed_is_said_to_prove_nothing() -> None:
    _, holds, fails, _ = findings([measured("a", 0.3)], [], judged("holds", one_seed=True))
    assert holds.text == fails.text == "0 of the paper's 1 claims."
    assert any("no claim can hold" in caution for caution in cautions([measured("a", 0.3)], 1))


@pytest.mark.parametrize(("last", "words"), [(0.33, "the sign is undecided"), (0.4, "do not overlap")])
def test_without_claims_the_trajectory_is_told_with_its_uncertainty(last: float, words: str) -> None:
    steps = [
        measured("a", 0.3).model_copy(update={"paper": Paper(probe=60.0)}),
        measured("b", last).model_copy(update={"paper": Paper(probe=57.5)}),
    ]
    told = findings(steps, steps, None)
    assert [finding.heading for finding in told] == ["Best", "From first to last", "The largest step"]
    assert words in told[1].text
    assert f"{100 * last - 30:+.1f} points" in told[1].text and "In the paper it is -2.5." in told[1].text


def test_where_nothing_was_learnt_no_difference_is_offered() -> None:
    assert "no row is shown to have learnt anything" in " ".join(cautions([measured("a", 0.3, gain=0.01)], 3))
    assert cautions([measured("a", 0.3)], 3) == []


@pytest.mark.parametrize(("one_seed", "verdict"), [(True, "undecided"), (False, "holds")])
def test_one_seed_never_makes_a_claim_hold(one_seed: bool, verdict: str) -> None:
    (claim,) = judged("holds", one_seed=one_seed).claims
    assert claim.verdict == verdict
    assert claim.by_gain.endswith("points to: holds)" if one_seed else ": holds")


def test_an_interval_is_drawn_on_its_axis_and_no_further(made: MadeUp, tags: Tags) -> None:
    """A drawing is from 4 to 124 wide; two seeds give intervals far beyond 0 and 100 %."""
    accuracies = pd.read_csv(made.folder / "tables/table1.csv").set_index("name")
    assert (accuracies["accuracy_low"] < 0).any()
    drawn = [a["d"] for _, a in tags.found if a.get("class") == "interval"]
    assert len(drawn) >= len(accuracies)
    for low, high in (re.fullmatch(r"M([\d.]+) 8H([\d.]+)", path).groups() for path in drawn):  # type: ignore[union-attr]
        assert 4 <= float(low) < float(high) <= 124
    values = [float(a["cx"]) for _, a in tags.found if a.get("class") == "value"]
    top = min(1.0, accuracies["accuracy_high"].max())
    expected = 4 + 120 * accuracies.loc["mae", "accuracy"] / top
    assert any(abs(value - expected) < 0.06 for value in values)


def test_a_seed_that_did_not_train_is_pointed_out(made: MadeUp, tmp_path: Path) -> None:
    folder = shutil.copytree(made.folder, tmp_path / "results")
    path = folder / "tables/table1.json"
    layout = TableRecord.read(path).layout
    by_seed = {"by_seed": {0: 0.288, 1: 0.156, 2: 0.283}, "random": Estimate(0.133, 0, 1)}
    rows = [row.model_copy(update=by_seed if row.name == "mae" else {}) for row in layout.rows]
    TableRecord(lineage={}, layout=layout.model_copy(update={"rows": tuple(rows)})).write(path)
    definition = page_definition(Graph(made.study), "main", "all").model_copy(update={"seeds": (0, 1, 2)})
    write_page(definition, results=folder, cost=tmp_path / "none.json", out=tmp_path / "page.html")
    text = "".join(Tags((tmp_path / "page.html").read_text()).texts["p"])
    said = "Seed 1 of “MAE” did not train as the others did: 15.6 beside 28.8 and 28.3 (random weights 13.3)"
    assert said in text


def test_a_trajectory_that_is_a_chain_is_called_one(tmp_path: Path, tags: Tags) -> None:
    study, results = Study.load(ROOT, {"scale": "laptop", "seeds": "[0,1,2]"}), ROOT / "results/reference"
    write_page(
        page_definition(Graph(study), "main", "all"),
        results=results,
        cost=tmp_path / "none.json",
        out=tmp_path / "page.html",
    )
    chain = "Each row is the one above it plus one change."
    assert chain in "".join(Tags((tmp_path / "page.html").read_text()).texts["figcaption"])
    assert chain not in "".join(tags.texts["figcaption"])  # dit, pca, patch_vae, mae: the first two are not


def test_the_page_begins_with_data_task_and_findings(made: MadeUp, tags: Tags) -> None:
    ids = tags.values("id")
    assert ids.index("data") < ids.index("findings") < ids.index("trajectory")
    text = " ".join("".join(tags.texts["p"]).split())
    assert "200 for training and 200 for validation" in text and "Guessing is right in 20.0 %" in text
    assert "The colours are false on purpose" in text
    captions = " ".join("".join(tags.texts["figcaption"]).split())
    assert captions.count("The colours are false on purpose") == 3  # noise, denoised images, samples
    pictures = [a for tag, a in tags.found if tag == "img" and a.get("width") == "64"]
    assert len(pictures) == 15 and all(a["src"].startswith("data:image/png;base64,") for a in pictures)
    assert "Broken images: 1 (a/broken.jpg: is empty)" in "".join(tags.texts["li"])
    assert "Files of other kinds: 3 (2 .gif, 1 .txt)" in "".join(tags.texts["li"])
    assert "Hidden or system files and folders: 1" in "".join(tags.texts["li"])


def test_own_images_are_described_by_their_classes(made: MadeUp, tmp_path: Path) -> None:
    classes = ["Katzen & Hunde", "grass 草", "<b>"]
    counts = {"train": dict(zip(classes, (8, 2, 2), strict=True)), "val": dict(zip(classes, (4, 1, 1), strict=True))}
    dataset = tmp_path / "dataset"
    labels = np.repeat([0, 1, 2], [8, 2, 2])
    sums = write_images(dataset, np.zeros((12, 3, 128, 128), np.uint8), train=12, labels=labels, groups=np.arange(12))
    manifest = write_manifest(dataset, size=128, classes=classes, counts=counts, sha256=sums)
    definition = page_definition(Graph(made.study), "main")
    settings = definition.settings | {"dataset": {"source": "folder", "path": "/data/my pictures", "size": 128}}
    definition = definition.model_copy(update={"settings": settings, "records": ()})
    write_page(definition, results=tmp_path, cost=tmp_path / "none.json", out=tmp_path / "page.html")
    text = " ".join("".join(Tags((tmp_path / "page.html").read_text()).texts["p"]).split())
    assert "The images of “my pictures” in 3 classes: 12 for training and 6 for validation, cut to 128 × 128" in text
    assert "Guessing is right in 33.3 %, always naming the most frequent class in 66.7 %." in text
    assert "false on purpose" not in text and "Left out" not in text
    tiles = contact_sheet(dataset, manifest)
    assert [(tile.name, tile.num, len(tile.images)) for tile in tiles] == [
        ("Katzen & Hunde", 8, 5),  # for training
        ("grass 草", 2, 2),
        ("<b>", 2, 2),
    ]


def test_of_many_classes_some_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    classes = [f"n{number:04}" for number in range(1000)]
    numbers = np.arange(1000)
    sums = write_images(tmp_path, np.zeros((1000, 3, 8, 8), np.uint8), train=1000, labels=numbers, groups=numbers)
    tiles = contact_sheet(tmp_path, write_manifest(tmp_path, classes=classes, images=1, sha256=sums))
    assert len(tiles) == 24
    assert (tiles[0].name, tiles[-1].name) == ("n0000", "n0999")


def test_a_page_without_the_prepared_images_still_names_its_data(tmp_path: Path) -> None:
    study, results = Study.load(ROOT, {"scale": "laptop", "seeds": "[0,1,2]"}), ROOT / "results/reference"
    definition = page_definition(Graph(study), "main")
    write_page(definition, results=results, cost=tmp_path / "none.json", out=tmp_path / "page.html")
    text = " ".join("".join(Tags((tmp_path / "page.html").read_text()).texts["p"]).split())
    assert "10,000 for training and 4,000 for validation" in text and "Guessing" not in text


def test_a_table_can_be_saved_from_the_page(made: MadeUp, tags: Tags) -> None:
    saved = {a["download"]: a["href"] for tag, a in tags.found if tag == "a" and "download" in a}
    for ending in ("csv", "tex", "md"):
        content = base64.b64decode(saved[f"table1.{ending}"].partition("base64,")[2])
        assert content == (made.folder / f"tables/table1.{ending}").read_bytes()


def test_numbers_have_minus_signs(made: MadeUp, tags: Tags) -> None:
    with (made.folder / "tables/table1.csv").open() as file:
        assert any(float(record["gain_low"]) < 0 for record in csv.DictReader(file))
    shown = "".join(tags.texts["td"]) + "".join(tags.texts["dd"])
    assert "−" in shown
    table = "".join("".join(cells_of) for cells_of in (tags.texts["th"], tags.texts["td"]))
    assert not re.search(r"(?<![\w.])-\d", table)


def test_the_columns_are_explained_once(tags: Tags) -> None:
    text = "".join(tags.texts["p"])
    assert text.count("± over seeds: the standard deviation") == 1 and text.count("k-NN: a vote") == 1


def test_rows_come_in_the_order_of_the_study(made: MadeUp, tags: Tags) -> None:
    rows = [name.removeprefix("row-") for name in tags.values("id") if name.startswith("row-")]
    assert rows == [name for name in made.study.variants if name in rows] and rows[0] == "dit"


def test_page_and_figures_have_one_palette() -> None:
    style = (ROOT / "ldae/readers/report/style.css").read_text()
    assert tuple(re.findall(r"\.c\d \{ stroke: light-dark\((#\w{6})", style)) == PALETTE


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed, so the page cannot be looked at")
    if find_spec("playwright") is None:
        pytest.skip("Playwright is not installed (pip install playwright), so the page cannot be looked at")
    from browser import browser_of

    with browser_of(chromium) as found:
        yield found


SIZES = [(width, scheme) for width in (390, 1280, 1920) for scheme in ("light", "dark")]


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_the_page_is_quiet_fits_and_asks_for_nothing(width: int, scheme: str, browser: Browser, page: Path) -> None:
    browser.open(page, width=width, scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.run("document.querySelectorAll('details').forEach((row) => { row.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("[...document.images].filter((i) => i.src !== 'data:,').every((i) => i.naturalWidth >= 64)")
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 150) == (scheme == "dark")
    assert browser.requests == [page.as_uri()]
    assert browser.complaints == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])  # faults are of a layout or of colours
def test_it_has_no_serious_fault_of_accessibility(width: int, scheme: str, browser: Browser, page: Path) -> None:
    if find_spec("axe_core_python") is None:
        pytest.skip("axe-core is not installed, so accessibility cannot be measured")
    browser.open(page, width=width, scheme=scheme)
    browser.run("document.querySelectorAll('details').forEach((row) => { row.open = true; })")
    browser.run((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8") + "; 0")
    found = browser.run("axe.run().then((r) => ({ passed: r.passes.length, violations: r.violations }))")
    serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert [(v["id"], [node["html"][:200] for node in v["nodes"][:3]]) for v in serious] == []
    assert found["passed"] > 20


HIDDEN = """[...document.querySelectorAll('.scroller')].filter((s) => s.clientWidth).map((s) => ({
  what: s.getAttribute('aria-label'),
  hides: s.scrollWidth - s.clientWidth > 1,
  marked: getComputedStyle(s.parentElement, '::after').content === '"›"',
}))"""


@pytest.mark.parametrize("width", [390, 700, 800, 1024, 1280, 1920])
def test_no_table_hides_a_column_without_a_mark(width: int, browser: Browser, page: Path) -> None:
    browser.open(page, width=width)
    browser.run("document.querySelectorAll('details').forEach((row) => { row.open = true; })")
    browser.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    found = browser.run(HIDDEN)
    assert len(found) > 10
    assert [one for one in found if one["hides"] != one["marked"]] == []


def test_the_mark_moves_to_the_other_edge_once_the_end_is_reached(browser: Browser, page: Path) -> None:
    browser.open(page, width=390)
    scroller = "document.querySelector('#table-table2 .scroller')"
    edges = f"new Promise((done) => setTimeout(() => done({scroller}.parentElement.className), 100))"
    assert browser.run(edges) == "frame more-right"
    browser.run(f"{scroller}.scrollLeft = 10000")
    assert browser.run(edges) == "frame more-left"


@pytest.mark.parametrize("width", [1280, 1920])
def test_the_main_tables_show_all_columns_on_a_screen(width: int, browser: Browser, tmp_path: Path) -> None:
    """Tables 1 and 4 of the reference run, the widest that there are."""
    study, results = Study.load(ROOT, {"scale": "laptop", "seeds": "[0,1,2]"}), ROOT / "results/reference"
    write_page(
        page_definition(Graph(study), "main", "all"),
        results=results,
        cost=tmp_path / "none.json",
        out=tmp_path / "page.html",
    )
    browser.open(tmp_path / "page.html", width=width)
    for name in ("table1", "table4"):
        box = f"document.querySelector('#table-{name} .scroller')"
        assert browser.run(f"{box}.scrollWidth - {box}.clientWidth") == 0


def test_on_a_telephone_rows_and_claims_are_cards(browser: Browser, page: Path) -> None:
    browser.open(page, width=390)
    inside = """(selector) => [...document.querySelectorAll(selector)].every((one) => {
      const box = one.getBoundingClientRect();
      return box.width === 0 || (box.left >= 0 && box.right <= 390);
    })"""
    browser.run("document.querySelectorAll('details').forEach((row) => { row.open = true; })")
    assert browser.run(f"({inside})('#table-table1 td, #table-table1 th, .claim, .claim *')")
    top = "((one) => one.getBoundingClientRect().top)"
    order = [
        browser.run(f"{top}(document.querySelector('.claim {part}'))") for part in (".verdict", ".statement", "dl")
    ]
    assert order == sorted(order)


def test_claims_without_a_verdict_are_folded(browser: Browser, tags: Tags, page: Path) -> None:
    browser.open(page, width=1280)
    assert browser.run("document.querySelectorAll('#claims .claim').length") == 4
    folded = browser.run("[...document.querySelectorAll('#claims .claim')].map((one) => !one.checkVisibility())")
    claims = "[...document.querySelectorAll('#claims .claim')]"
    undecided = browser.run(f"{claims}.map((one) => Boolean(one.querySelector('.undecided, .not-tested')))")
    assert folded == undecided and any(folded)


def test_a_heading_sorts_its_column(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    body = "document.querySelector('#table-table1 tbody')"
    column = f"[...{body}.rows].map((line) => line.cells[2].dataset.sort)"
    heading = "document.querySelectorAll('#table-table1 thead th')[2]"
    first = browser.run(column)
    values = sorted(first, key=float)
    assert first != values
    for order, expected in (("ascending", values), ("descending", values[::-1]), (None, first)):
        browser.run(f"{heading}.querySelector('button').click()")
        assert browser.run(f"{heading}.getAttribute('aria-sort')") == order
        assert browser.run(column) == expected


def test_what_has_no_number_sorts_last(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    table = "document.querySelector('#table-table1 table')"
    place = browser.run(f"[...{table}.tHead.rows[0].cells].findIndex((c) => c.textContent === 'paper, FID')")
    for _ in range(2):
        browser.run(f"{table}.tHead.rows[0].cells[{place}].querySelector('button').click()")
        shown = browser.run(f"[...{table}.tBodies[0].rows].map((r) => r.cells[{place}].textContent.trim())")
        assert shown == ["11.6", "", "", "", "", ""]


def test_a_figure_is_enlarged_and_closed_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page, width=390)
    browser.run("document.querySelector('#figure-samples .enlarge').focus(); document.activeElement.click()")
    assert browser.run("document.getElementById('large').open")
    assert browser.run("document.querySelector('#large img').src === document.querySelector('#figure-samples img').src")
    assert browser.run("document.documentElement.scrollWidth") <= 390
    browser.page.keyboard.press("Escape")
    assert browser.run("document.getElementById('large').open") is False
    assert browser.run("document.activeElement.closest('figure')?.id") == "figure-samples"


def test_a_number_opens_the_row_that_made_it(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.run("document.querySelector('#table-table1 td a[href=\"#row-mae\"]').click()")
    assert browser.run("new Promise((done) => setTimeout(() => done(document.getElementById('row-mae').open), 50))")
    assert browser.run("Math.abs(document.getElementById('row-mae').getBoundingClientRect().top) < innerHeight")


def test_training_curves_answer_the_pointer_and_the_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.run("document.getElementById('plot').scrollIntoView({ block: 'center', behavior: 'instant' })")
    assert browser.run("document.querySelectorAll('#plot .curve').length") == 8  # the first of nine runs
    left, top, width, height = browser.run(
        "(({ x, y, width, height }) => [x, y, width, height])(document.getElementById('plot').getBoundingClientRect())"
    )
    browser.page.mouse.move(left + width / 2, top + height / 2)
    said = browser.run("document.getElementById('readout').textContent")
    assert re.search(r": loss [\d.]+ after \d+ images$", said)
    browser.run("document.getElementById('plot').focus()")
    browser.page.keyboard.press("End")
    assert browser.run("document.getElementById('readout').textContent").endswith("after 128 images")
    browser.page.keyboard.press("ArrowLeft")
    last = browser.run("document.getElementById('readout').textContent")
    assert last.endswith("after 112 images")
    browser.page.keyboard.press("ArrowDown")
    assert browser.run("document.getElementById('readout').textContent").split(":")[0] != last.split(":")[0]
    browser.run("document.getElementById('no-curves').click()")
    assert browser.run("document.querySelectorAll('#plot .curve').length") == 0
    assert browser.complaints == []


def test_the_theme_can_be_chosen(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280, scheme="dark")
    colours = set()
    for name in ("light", "dark", "system"):
        browser.run("document.getElementById('theme').click()")
        assert browser.run("document.getElementById('theme').textContent").endswith(name)
        colours.add((name == "light", browser.run("getComputedStyle(document.body).backgroundColor")))
    assert len(colours) == 2


def test_a_page_that_would_fetch_something_is_noticed(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text(
        "<img src='picture.png'><p style='width:2000px'>wide</p><script>nothing()</script>"
    )
    browser.open(tmp_path / "x.html", width=390)
    assert len(browser.requests) == 2
    assert len(browser.complaints) >= 1
