"""The page: its parts, read as HTML; and the whole, looked at in a real browser."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import yaml
from browser import Browser
from made_up import MadeUp
from PIL import Image
from rows import ROOT

from ldae.figures import FIGURES
from ldae.files import read_json, write_json
from ldae.report import cells, write_page
from ldae.report.words import trajectory_in_words, verdicts_in_words
from ldae.variants import Study

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
    values["tables"]["reorienting"]["title"] = f"Rows {EVIL}"
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
    write_page(found.study.page("main", "all"), results=found.folder, cost=cost, out=found.folder / "report.html")
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


def test_every_link_leads_somewhere(tags: Tags) -> None:
    links = [attributes["href"] for tag, attributes in tags.found if tag == "a"]
    assert len(links) > 30
    assert {link.removeprefix("#") for link in links} <= set(tags.values("id"))


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
    assert f"A sum {EVIL}" in "".join(tags.texts["th"])
    assert EVIL in "".join(tags.texts["figcaption"])


def test_the_numbers_are_those_of_the_tables(made: MadeUp, tags: Tags) -> None:
    cells = " ".join("".join(tags.texts["td"]).split())
    with (made.folder / "tables/reorienting.csv").open() as file:
        records = list(csv.DictReader(file))
    assert len(records) == 6
    for record in records:
        value, low, high = (100 * float(record[f"accuracy{end}"]) for end in ("", "_low", "_high"))
        assert f"{value:.1f} [{low:.1f}, {high:.1f}]".replace(" ", "") in cells.replace(" ", "")
    notes = "".join(tags.texts["p"])
    assert "200 validation images in 50 groups, 2 seeds" in notes
    assert "it is no FID" in notes


def test_each_number_has_its_origin(made: MadeUp, tags: Tags) -> None:
    text = " ".join("".join(tags.texts["details"]).split())
    for part in ("pretrain/dit/seed1/run.json", "probe/mae/seed0/probe.json", "judge/pca/seed1/distance.json"):
        assert part in text
    for part in ("0123456789ab", "torch 2.15.0", "a processor", "2023-11-14", "tokenizer.kind: pca → patch_vae"):
        assert part in text
    assert '{"tokenizer":{"kind":"patch_vae"}}' in text
    shared = "".join(tags.texts["section"])
    assert "tokenizers/patch_vae-32/tokenizer.json" in shared and "classifiers/resnet/classifier.json" in shared


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
    definition = made.study.page("main")
    write_page(
        definition, results=made.folder, cost=made.folder / "tables/cost_all.csv", out=tmp_path / "report_main.html"
    )
    ids = Tags((tmp_path / "report_main.html").read_text()).values("id")
    assert "table-reorienting" in ids and "table-tokenizers" not in ids
    assert "claims" not in ids and "figure-samples" not in ids and "row-pixel_d48" not in ids


def test_what_is_not_there_is_said(made: MadeUp, tmp_path: Path) -> None:
    for folder in ("tables", "figures"):
        shutil.copytree(made.folder / folder, tmp_path / folder)
    (tmp_path / "tables/tokenizers.csv").unlink()
    write_page(
        made.study.page("main", "all"), results=tmp_path, cost=tmp_path / "nowhere.csv", out=tmp_path / "page.html"
    )
    found = Tags((tmp_path / "page.html").read_text())
    text = "".join(found.texts["p"])
    assert "Not made yet: Series." in text
    assert "No record of its runs lies beside this page." in text
    assert not {"cost", "training", "table-tokenizers"} & set(found.values("id"))


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
            made.study.page("main", "all"), results=folder, cost=folder / "tables/cost_all.csv", out=tmp_path / "x.html"
        )
    assert not (tmp_path / "x.html").exists()


def test_the_reference_results_make_a_page_below_five_megabytes(tmp_path: Path) -> None:
    study = Study.load(ROOT, {"scale": "laptop", "seeds": "[0,1,2]"})
    results = ROOT / "results/reference"
    write_page(study.page("main", "all"), results=results, cost=results / "tables/cost.csv", out=tmp_path / "page.html")
    assert 1_000_000 < (tmp_path / "page.html").stat().st_size < 5_000_000


def line(row: str, accuracy: float, paper: str = "") -> dict[str, str]:
    parts = {"accuracy": accuracy, "low": accuracy - 0.02, "high": accuracy + 0.02}
    return {"row": row, "label": row, "paper": paper} | {name: str(value) for name, value in parts.items()}


def test_the_paragraph_says_what_the_numbers_say() -> None:
    rows = [line("a", 0.30, "60"), line("b", 0.10, "65"), line("c", 0.12, "70"), line("d", 0.20, "71")]
    gains = {"a": {"gain": "0.1", "gain_low": "0.05", "gain_high": "0.2"}}
    gains["b"] = {"gain": "0.1", "gain_low": "-0.05", "gain_high": "0.2"}
    said = trajectory_in_words(rows, gains, seeds=1, judged=False)
    assert "accuracy goes from 30.0 % [28.0, 32.0] to 20.0 % [18.0, 22.0]" in said
    assert "The first of the 4 rows is the best." in said
    assert "the largest fall is at “b”, by 20.0 points (in the paper +5.0)" in said
    assert "the largest rise is at “d”, by 8.0 points (in the paper +1.0)" in said
    assert "In 2 of 3 steps the two rows' intervals do not overlap" in said
    assert "told apart by the figure alone." in said
    assert "rank correlation of -0.20 with the paper's order" in said
    assert "in 1 of the 2 rows whose gain is in a table" in said
    assert said.endswith("There is one seed, which says nothing of how much another would differ.")


def test_a_trajectory_of_one_row_without_the_papers_numbers_can_be_told() -> None:
    said = trajectory_in_words([line("a", 0.30)], {}, seeds=2, judged=True)
    assert said == "Its one row is “a”, with 30.0 % [28.0, 32.0]."


def test_verdicts_are_counted() -> None:
    said = verdicts_in_words(["holds", "does not hold", "holds", "undecided"])
    assert said == "Of the paper's 4 claims that were judged, 2 hold, 1 does not hold, and 1 is undecided."


@pytest.mark.parametrize(("seeds", "word"), [([0], "undecided"), ([0, 1], "holds")])
def test_one_seed_never_makes_a_claim_hold(seeds: list[int], word: str, tmp_path: Path) -> None:
    values = "c,A claim,+1.0,holds,holds,+1.0 [0.5; 1.5],+1.0 [0.5; 1.5],1.0,0.5,1.5"
    heading = "name,text,paper,verdict_accuracy,verdict_gain,said_accuracy,said_gain"
    heading += ",accuracy_value,accuracy_low,accuracy_high"
    (tmp_path / "claims.csv").write_text(f"{heading}\n{values}\n")
    (tmp_path / "claims.md").write_text("## Claims\n\n| claim |\n\nA note.\n")
    entries = [{"name": name, "where": "Table 1", "rows": ["pca"], "above": 0.0} for name in ("c", "not judged")]
    sheet = cells.claims(entries, tmp_path, seeds)
    assert [[cell.verdict for cell in line if cell.verdict] for line in sheet.lines] == [[word]]
    assert sheet.notes == ["A note."]
    whisker = sheet.lines[0][2].whisker
    assert whisker is not None and whisker.side is not None
    assert whisker.low < whisker.value == whisker.reference < whisker.high == whisker.side[1] == 1.0


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed, so the page cannot be looked at")
    with Browser(chromium, tmp_path_factory.mktemp("profile")) as found:
        yield found


SIZES = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_the_page_is_quiet_fits_and_asks_for_nothing(width: int, scheme: str, browser: Browser, page: Path) -> None:
    browser.open(page, width=width, scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.run("document.querySelectorAll('details').forEach((row) => { row.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("[...document.images].filter((i) => i.src !== 'data:,').every((i) => i.naturalWidth > 100)")
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 150) == (scheme == "dark")
    assert browser.requests() == [page.as_uri()]
    assert browser.complaints() == []


@pytest.mark.parametrize(("width", "scheme"), SIZES)
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


def test_a_heading_sorts_its_column(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    body = "document.querySelector('#table-reorienting tbody')"
    column = f"[...{body}.rows].map((line) => line.cells[2].dataset.sort)"
    heading = "document.querySelectorAll('#table-reorienting thead th')[2]"
    first = browser.run(column)
    values = sorted(first, key=float)
    assert first != values
    for order, expected in (("ascending", values), ("descending", values[::-1]), (None, first)):
        browser.run(f"{heading}.querySelector('button').click()")
        assert browser.run(f"{heading}.getAttribute('aria-sort')") == order
        assert browser.run(column) == expected


def test_what_has_no_number_sorts_last(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    table = "document.querySelector('#table-reorienting table')"
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
    browser.press("Escape")
    assert browser.run("document.getElementById('large').open") is False
    assert browser.run("document.activeElement.closest('figure')?.id") == "figure-samples"


def test_a_number_opens_the_row_that_made_it(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.run("document.querySelector('#table-reorienting td a[href=\"#row-mae\"]').click()")
    assert browser.run("new Promise((done) => setTimeout(() => done(document.getElementById('row-mae').open), 50))")
    assert browser.run("Math.abs(document.getElementById('row-mae').getBoundingClientRect().top) < innerHeight")


def test_training_curves_answer_the_pointer_and_the_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.run("document.getElementById('plot').scrollIntoView({ block: 'center', behavior: 'instant' })")
    assert browser.run("document.querySelectorAll('#plot .curve').length") == 7  # runs; two rows share one
    left, top, width, height = browser.run(
        "(({ x, y, width, height }) => [x, y, width, height])(document.getElementById('plot').getBoundingClientRect())"
    )
    browser.point(left + width / 2, top + height / 2)
    said = browser.run("document.getElementById('readout').textContent")
    assert re.search(r": loss [\d.]+ after \d+ images$", said)
    browser.run("document.getElementById('plot').focus()")
    browser.press("End")
    assert browser.run("document.getElementById('readout').textContent").endswith("after 128 images")
    browser.press("ArrowLeft")
    last = browser.run("document.getElementById('readout').textContent")
    assert last.endswith("after 112 images")
    browser.press("ArrowDown")
    assert browser.run("document.getElementById('readout').textContent").split(":")[0] != last.split(":")[0]
    browser.run("document.getElementById('no-curves').click()")
    assert browser.run("document.querySelectorAll('#plot .curve').length") == 0
    assert browser.complaints() == []


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
    assert len(browser.requests()) == 2
    assert len(browser.complaints()) >= 1
