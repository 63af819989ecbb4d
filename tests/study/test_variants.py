from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from rows import ROOT, VARIANTS

from ldae.overview.show import differences, row_in_full, say
from ldae.study.checking import StudyError
from ldae.study.cost import Costs, DataSize
from ldae.study.file import Paper
from ldae.study.graph import PAGES, Graph
from ldae.study.recipes import Probing
from ldae.study.scale import Folder, Photos, Sampling, Scale
from ldae.study.schedules import SCHEDULES, Levels
from ldae.study.spec import Features, Spec
from ldae.study.stage_specs import FinetuneStage
from ldae.study.study import RULES, Study

WEIGHTS = f"method.name: mae, method.weights: {{path: x, sha256: {64 * 'a'}, width: 32, heads: 2, blocks: 2}}"
SCALES = ("smoke", "laptop", "gpu", "imagenet")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a study of three rows and two scales, to be edited."""
    (tmp_path / "scales").mkdir()
    for scale in ("smoke", "laptop"):
        shutil.copy(ROOT / f"scales/{scale}.yaml", tmp_path / "scales")
    shutil.copy(ROOT / "tests/study.yaml", tmp_path / "config.yaml")
    return tmp_path


def edit(root: Path, file: str, old: str, new: str) -> None:
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new, 1))


def mistake(root: Path, **overrides: Any) -> str:
    """The one line that loading ends with."""
    with pytest.raises(StudyError) as caught:
        Study.load(root, overrides)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize("name", [n for n, v in VARIANTS.items() if v.parent and v.paper != Paper()])
def test_a_row_of_the_papers_is_its_parent_with_one_part_changed(name: str) -> None:
    row = VARIANTS[name]
    changes = row.spec.changes(VARIANTS[str(row.parent)].spec)
    assert len({key.partition(".")[0] for key in changes}) == 1


@pytest.mark.parametrize("scale", SCALES)
def test_what_a_training_reads_survives_its_text_at_every_scale(scale: str) -> None:
    study = Study.load(ROOT, {"scale": scale})
    for row in study.variants:
        stage = study.pretraining(row)
        assert type(stage).model_validate_json(stage.to_json()) == stage


def test_the_imagenet_scale_is_the_papers_protocol() -> None:
    study = Study.load(ROOT, {"scale": "imagenet"})
    training, size, probing = study.scale.training, study.scale.sizes["half-L"], study.scale.probing
    assert training.total_steps(1_281_167) == pytest.approx(250_228, abs=1)
    assert training.rate * training.batch / 256 == pytest.approx(8e-4)
    assert training.warmup * 400 == 100
    assert (size.width, size.heads, size.encoder_blocks, size.decoder_blocks) == (1024, 16, 12, 12)
    assert (probing.mode, probing.epochs, probing.batch) == ("exact", 90, 16384)
    assert 0.1 in probing.rates
    assert study.scale.dataset.size == 256


def test_a_scale_of_other_images_is_told_what_to_do_about_the_margin(root: Path) -> None:
    shutil.copy(ROOT / "scales/imagenet.yaml", root / "scales")
    mine = root / "scales/mine.yaml"
    mine.write_text("from: imagenet\ndataset: {size: 128}\n")
    text = mistake(root, scale="mine")
    assert all(word in text for word in ("scales/mine.yaml: dataset.store: 384", "128", "192", "or null")), text
    for store, expected in (("192", 192), ("null", 128)):
        mine.write_text(f"from: imagenet\ndataset: {{size: 128, store: {store}}}\n")
        assert Study.load(root, {"scale": "mine"}).scale.dataset.stored == expected


def test_the_imagenet_scale_fine_tunes_as_the_papers_appendix_b() -> None:
    study = Study.load(ROOT, {"scale": "imagenet"})
    base, large = (FinetuneStage.for_job(study, {"row": row}) for row in ("ldae_b", "ldae_l"))
    recipe = base.finetuning
    assert (recipe.batch, recipe.rate * recipe.batch / 256, recipe.epochs) == (1024, pytest.approx(4e-3), 100)
    assert (recipe.weight_decay, recipe.drop_path, recipe.ema) == (0.05, 0.1, 0.9999)
    assert (recipe.mixup, recipe.cutmix, recipe.magnitude) == (0.8, 1.0, 9.0)
    assert (base.layer_decay, large.layer_decay) == (0.85, 0.65)
    assert base.finetuning == large.finetuning


def test_rows_are_fine_tuned_where_the_paper_has_a_number_or_the_study_asks_for_it(root: Path) -> None:
    edit(root, "config.yaml", "probe: 65.1}", "probe: 65.1}\n    finetune: true")
    edit(root, "config.yaml", "probe: 62.4}", "probe: 62.4, finetune: 83.7}")
    study = Study.load(root, {})
    assert [name for name, row in study.variants.items() if row.finetune] == ["pca", "predict_clean"]
    described = {row["name"]: row for row in Graph(study).jobs["tables/table3"].spec["rows"]}
    assert [name for name, row in described.items() if "finetuned" in row] == ["pca", "predict_clean"]


def test_the_layer_decay_of_another_size_concerns_no_row(root: Path) -> None:
    before = FinetuneStage.for_job(Study.load(root, {}), {"row": "pca"})
    edit(root, "scales/smoke.yaml", "finetuning: {", "finetuning: {layer_decay: {L: 0.5}, ")
    assert FinetuneStage.for_job(Study.load(root, {}), {"row": "pca"}) == before
    edit(root, "scales/smoke.yaml", "{L: 0.5}", "{half-L: 0.5}")
    assert FinetuneStage.for_job(Study.load(root, {}), {"row": "pca"}).layer_decay == 0.5


def test_a_sweep_point_that_equals_a_row_is_that_row() -> None:
    study = Study.load(ROOT, {})
    points = {point.label: point.variant for point in study.sweeps["pca_d"]}
    assert points["patch-wise PCA, d = 32"] == "pca"
    assert "pca_d32" not in study.variants
    assert Graph(study).jobs["tables/pixel"].spec["rows"][6]["label"] == "patch-wise PCA, d = 32"


def test_a_command_line_holds_only_what_differs_from_the_baseline() -> None:
    assert Spec().to_json() == "{}"
    assert Spec().changed({"tokenizer.dim": 16, "objective.predict": "clean"}).to_json() == (
        '{"objective":{"predict":"clean"},"tokenizer":{"dim":16}}'
    )
    assert Features().to_json() == "{}"


@pytest.mark.parametrize("row", VARIANTS)
def test_a_spec_survives_its_text(row: str) -> None:
    assert Spec.model_validate_json(VARIANTS[row].spec.to_json()) == VARIANTS[row].spec


def test_the_row_whose_probe_takes_longest_does_not_come_last() -> None:
    study = Study.load(Path(__file__).parents[2], {})
    blocks = [row for row, probe in study.probes.items() if probe == "ldae"]
    assert len(blocks) > 1 and study.urgency[0] == "ldae"
    first_table = study.rows(study.file.tables["table3"].names)
    assert set(study.urgency[: len(first_table)]) == set(first_table)


def test_every_rule_is_known_so_that_no_table_or_figure_takes_its_name() -> None:
    text = "\n".join(path.read_text() for path in [*(ROOT / "rules").glob("*.smk"), ROOT / "workflow/Snakefile"])
    rules = set(re.findall(r"^ *(?:rule|checkpoint) (\w+):", text, re.MULTILINE))
    pages = {name for page, (cost, _) in PAGES.items() for name in (page, cost)}  # their rules are made in loops
    assert rules | pages == set(RULES)


def test_the_order_of_keys_means_nothing(root: Path) -> None:
    before = Study.load(root, {}).pretraining("predict_clean").to_json()
    edit(
        root,
        "config.yaml",
        "{objective.predict: clean, objective.weight: signal}",
        "{objective.weight: signal, objective.predict: clean}",
    )
    assert Study.load(root, {}).pretraining("predict_clean").to_json() == before


def test_seeds_may_come_from_a_command_line(root: Path) -> None:
    for given in ("[0,1]", "0,1", ["0", "1"], [0, 1]):
        assert Study.load(root, {"seeds": given}).file.seeds == [0, 1]
    assert Study.load(root, {"seeds": 3}).file.seeds == Study.load(root, {"seeds": "3"}).file.seeds == [3]


def test_another_study_can_be_named(root: Path) -> None:
    assert len(Study.load(ROOT, {"study": str(root / "config.yaml")}).variants) == 3


def scale(root: Path, text: str, base: str = "smoke") -> Scale:
    """The scale of a file that is from another."""
    (root / "scales/mine.yaml").write_text(f"from: {base}\n{text}\n")
    return Study.load(root, {"scale": "mine"}).scale


def test_a_scale_changes_single_keys_of_the_one_that_it_is_from(root: Path) -> None:
    smoke = Study.load(root, {"scale": "smoke"}).scale
    mine = scale(root, "training: {steps: 60}\nsizes: {B: {width: 48}}\nclassifiers: {vgg: {width: 8}}")
    assert mine.training == smoke.training.model_copy(update={"steps": 60})
    assert mine.sizes["B"] == smoke.sizes["B"].model_copy(update={"width": 48})
    assert (mine.sizes["L"], mine.classifiers["resnet"]) == (smoke.sizes["L"], smoke.classifiers["resnet"])
    assert mine.classifiers["vgg"].steps == smoke.classifiers["vgg"].steps
    (root / "scales/larger.yaml").write_text("from: mine\nsampling: {num: 107}\n")
    larger = Study.load(root, {"scale": "larger"}).scale
    assert (larger.sampling.num, larger.sampling.steps) == (107, smoke.sampling.steps)
    assert larger.training == mine.training


def test_a_data_set_of_another_kind_inherits_nothing(root: Path) -> None:
    text = "dataset: {source: folder, path: ~/pictures, size: 32, val_fraction: 0.2}"
    assert scale(root, text).dataset == Folder(source="folder", path="~/pictures", size=32, val_fraction=0.2)
    assert scale(root, "dataset: {train: 50}").dataset == Photos(source="photos", size=64, train=50, val=200)


def test_a_length_in_epochs_takes_the_place_of_one_in_steps(root: Path) -> None:
    training = scale(root, "training: {epochs: 3}").training
    assert (training.epochs, training.steps, training.batch) == (3, None, 16)
    (root / "scales/longer.yaml").write_text("from: mine\ntraining: {steps: 9}\n")
    assert Study.load(root, {"scale": "longer"}).scale.training.steps == 9


def test_a_list_is_replaced_and_null_is_the_default_again(root: Path) -> None:
    mine = scale(root, "probing: {rates: [1], views: null}\nsampling: null")
    assert (mine.probing.rates, mine.probing.views, mine.probing.epochs) == (
        (1.0,),
        Probing(mode="cached", rates=(1,)).views,
        5,
    )
    assert mine.sampling == Sampling()
    (root / "scales/mine.yaml").write_text("from: smoke\ntraining: {rate: null}\n")
    assert "scales/mine.yaml: training.rate: is missing" in mistake(root, scale="mine")


NO_FOLDER_NAMES = {
    "my study": "my_study",
    "a (2)": "a_2",
    "{x}": "x",
    "a$b": "a_b",
    "it's": "it_s",
    ".": "mine",
    "-x": "x",
}


@pytest.mark.parametrize(("name", "other"), NO_FOLDER_NAMES.items())
def test_a_file_that_cannot_name_a_folder_of_results_is_refused(name: str, other: str, root: Path) -> None:
    shutil.copy(root / "config.yaml", root / f"{name}.yaml")
    with pytest.raises(StudyError, match=re.escape(f"e.g. {other}.yaml")):
        Study.load(root, {"study": str(root / f"{name}.yaml")})
    (root / f"scales/{name}.yaml").write_text("from: smoke\n")
    with pytest.raises(StudyError, match=re.escape(f"e.g. {other}.yaml")):
        Study.load(root, {"scale": name})


@pytest.mark.parametrize("name", ["mine", "Größe", "v1.2-b", "7", "a_b"])
def test_a_study_writes_into_a_folder_of_its_name(name: str, root: Path) -> None:
    shutil.copy(root / "config.yaml", root / f"{name}.yaml")
    assert Study.load(root, {"study": str(root / f"{name}.yaml")}).results == Path("results", name, "smoke")


def test_scales_that_start_from_each_other_are_refused(root: Path) -> None:
    (root / "scales/mine.yaml").write_text("from: other\n")
    (root / "scales/other.yaml").write_text("from: mine\n")
    with pytest.raises(StudyError, match="scales/other.yaml: from: there is no other scale 'mine'"):
        Study.load(root, {"scale": "mine"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("training.steps: 3", ["training.steps is a key of scales/*.yaml", "recipe.length"]),
        ("training.rate: 3", ["training.rate is a key of scales/*.yaml", "recipe.rate"]),
        ("baselines.mae.batch: 3", ["baselines.mae.batch is a key of scales/*.yaml", "recipe.batch"]),
        ("probing.epochs: 3", ["probing.epochs is a key of scales/*.yaml"]),
        ("sizes.B: 3", ["sizes.B is a key of scales/*.yaml", "network.size"]),
        ("steps: 3", ["training.steps is a key of scales/*.yaml", "recipe.length"]),
        ("dim: 3", ["did you mean 'tokenizer.dim'"]),
        ("tokenizer: {dim: 3}", ["'tokenizer'", "tokenizer.dim"]),
        ("label: x", ["'label' goes next to set:"]),
    ],
)
def test_a_key_that_no_row_has_is_answered_with_its_place(root: Path, changes: str, words: list[str]) -> None:
    edit(root, "config.yaml", "{noise.schedule: single}", f"{{{changes}}}")
    text = mistake(root)
    assert all(word in text for word in ["config.yaml: variants.single_level.set", *words]), text


def with_row(root: Path, changes: str, parent: str = "predict_clean", **overrides: Any) -> Study:
    """The study with one more row."""
    row = f"  mine:\n    from: {parent}\n    label: x\n    set: {{{changes}}}\n\ntables:"
    edit(root, "config.yaml", "\ntables:", row)
    return Study.load(root, overrides)


@pytest.mark.parametrize(
    ("changes", "resources", "words"),
    [
        ("recipe.batch: 0.3", "", ["recipe.batch", "0.3 times the scale's 16 images is 4.8"]),
        ("recipe.batch: 0.01", "", ["recipe.batch", "whole number"]),
        ("recipe.batch: 1.25", "gpu: 8, ", ["recipe.batch", "20 images", "8 GPUs"]),
        ("recipe.rate: 0", "", ["recipe.rate: found 0", "greater than 0"]),
        ("recipe.weight_decay: -1", "", ["recipe.weight_decay: found -1"]),
        ("recipe.weight_decay: 0", "", ["equals row 'predict_clean'"]),
        ("method.name: mae, recipe.length: 2", "", ["recipe.length: changes nothing", "baselines.mae"]),
        ("method.name: moco_v3, recipe.crop: random", "", ["recipe.crop: changes nothing", "'moco_v3'"]),
        ("method.name: mae, tokenizer.dim: 8", "", ["tokenizer.dim: changes nothing", "'mae'"]),
        (f"{WEIGHTS}, recipe.rate: 2", "", ["recipe.rate: changes nothing", "published weights"]),
    ],
)
def test_a_recipe_that_a_row_cannot_have_is_told_by_name(
    root: Path, changes: str, resources: str, words: list[str]
) -> None:
    edit(root, "scales/smoke.yaml", "resources: {", f"resources: {{{resources}")
    with pytest.raises(StudyError) as caught:
        with_row(root, changes)
    assert all(word in str(caught.value) for word in ["config.yaml: variants.mine", *words]), caught.value


def test_batches_that_the_gpus_of_a_scale_cannot_share_are_told_by_name(root: Path) -> None:
    edit(root, "scales/smoke.yaml", "minutes: 5", "minutes: 5, gpu: 3")
    assert "scales/smoke.yaml: training.batch: 16 images cannot be divided among 3 GPUs" in mistake(root)


def test_a_weight_decay_of_the_scales_own_is_the_row_without_it(root: Path) -> None:
    sweep = "sweeps:\n  decay:\n    from: pca\n    label: x {value}\n    over: {recipe.weight_decay: [0, 0.05]}\n"
    edit(root, "config.yaml", "\ntables:", f"\n{sweep}\ntables:")
    assert [point.variant for point in Study.load(root, {}).sweeps["decay"]] == ["pca", "decay0p05"]


def test_a_row_of_another_batch_costs_as_much_for_it_sees_as_many_images(root: Path) -> None:
    study = with_row(root, "recipe.batch: 2, recipe.rate: 0.5")
    model = Costs(study, DataSize(400, 200, 20))
    costs = {job.name: model.of(job) for job in Graph(study).jobs.values() if job.stage == "pretrain"}
    assert costs["mine, seed 0"] == costs["predict_clean, seed 0"]


def test_a_row_s_recipe_shows_in_full_and_as_one_change(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = with_row(root, "recipe.batch: 2")
    say(*row_in_full(study, root, "mine"))
    assert "32 images a step at a peak rate of 0.002" in capsys.readouterr().out
    say(*differences(study, "predict_clean", "mine"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:2]] == [["recipe.batch", "1.0", "2.0"]]
    assert not lines[2].strip()


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("config.yaml", "seeds:", "training: {steps: 3}\nseeds:", ["'training'", "scales/*.yaml"]),
        ("config.yaml", "    set: {noise", "    network.size: B\n    set: {noise", ["set: {network.size: ...}"]),
        ("scales/smoke.yaml", "sampling:", "seeds: [1]\nsampling:", ["'seeds' is a key of config.yaml"]),
        ("scales/smoke.yaml", "sampling:", "recipe: {rate: 2}\nsampling:", ["'recipe' belongs to a row", "set:"]),
    ],
)
def test_a_word_of_another_file_is_answered_with_its_place(
    root: Path, file: str, old: str, new: str, words: list[str]
) -> None:
    edit(root, file, old, new)
    text = mistake(root)
    assert all(word in text for word in [file, *words]), text


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "objective.predict:",
            "objectiv.predict:",
            ["predict_clean", "objectiv.predict", "did you mean 'objective.predict'"],
        ),
        ("predict: clean", "predict: cleen", ["predict_clean", "objective.predict", "'cleen'", "'noise'", "'clean'"]),
        ("from: pca", "from: pcaa", ["predict_clean.from", "'pcaa'", "did you mean 'pca'"]),
        ("{noise.schedule: single}", "{noise.sigma: -1}", ["single_level", "noise.sigma", "-1", "greater than 0"]),
        ("{noise.schedule: single}", "{noise.sigma: 1}", ["noise.sigma: changes nothing", "'gamma2'", "'single'"]),
        ("{noise.schedule: single}", "{tokenizer.dim: 769}", ["single_level", "tokenizer.dim", "769", "768"]),
        ("{noise.schedule: single}", "{tokenizer.kind: pixel}", ["single_level", "tokenizer.dim", "32", "768"]),
        ("{noise.schedule: single}", "{objective.tail: 0.1}", ["single_level", "objective.tail", "'image'"]),
        ("{objective.predict: clean, objective.weight: signal}", "{network.output: image}", ["predict", "'clean'"]),
        ("{noise.schedule: single}", "{objective.weight: signal}", ["single_level", "equals row 'predict_clean'"]),
        ("label: patch", "labl: patch", ["variants.pca.labl", "did you mean 'label'"]),
        ("{probe: 65.1}", "65.1", ["variants.pca.paper: found 65.1, should be like {probe: 65.1}"]),
        ("  single_level:", "  Single:", ["variants.Single", "lower-case letters, digits and _"]),
        ("kind: trajectory", "kind: trajectory\n    cosine: 1", ["'figures.figure6.cosine'"]),
        ("label: patch-wise PCA baseline", "label: 7", ["variants.pca.label: found 7, should be text"]),
        ("probe: 65.1", "prob: 65.1", ["variants.pca.paper.prob", "did you mean 'probe'"]),
        ("rows: [pca,", "rows: [pcaa,", ["tables.table3", "'pcaa'", "did you mean 'pca'"]),
        ("kind: trajectory", "kind: trajektorie", ["figures.figure6.kind", "'trajektorie'", "'trajectory'"]),
        ("seeds: [0]", "seeds: [0, 0]", ["seeds", "twice"]),
        ("seeds: [0]", "seeds: [0\n", ["line"]),
        ("seeds: [0]", "seeds: [0]\nseeds: [1]", ["line 5", "'seeds'", "twice"]),
        ("pretrain: 3", "pretrain: 0", ["revisions.pretrain", "0", "1"]),
        ("scale: smoke", "scale: smok", ["'smok'", "did you mean 'smoke'", "laptop"]),
        ("tables:", "tabels:", ["'tabels'", "did you mean 'tables'"]),
    ],
)
def test_a_mistake_in_the_study_is_told_by_name(root: Path, old: str, new: str, words: list[str]) -> None:
    edit(root, "config.yaml", old, new)
    text = mistake(root)
    assert all(word in text for word in words), text
    assert "config.yaml" in text or "scale:" in text


def test_a_mistake_of_the_whole_study_is_told_beside_a_command_line(root: Path) -> None:
    edit(root, "config.yaml", "pretrain: 3, ", "")
    assert "config.yaml: revisions: has no pretrain" in mistake(root, scale="smoke")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("steps: 40", "steps: 40, epochs: 3", ["training", "steps: 40", "epochs: 3", "exactly one"]),
        ("width: 32, heads: 2, encoder_blocks: 1", "width: 32, heads: 3, encoder_blocks: 1", ["heads: 3", "width 32"]),
        ("source: photos", "source: fotos", ["dataset.source", "'fotos'", "'photos'", "'folder'"]),
        ("{width: 32", "{widht: 32", ["sizes.half-L.widht", "did you mean 'width'"]),
        ("train: 400", "trian: 400", ["'dataset.trian'", "did you mean 'train'"]),
        ("steps: 40", "steps: yes", ["training.steps: found true, should be a number"]),
        ("rates: [0.3, 3]", "rates: [0.3, on]", ["probing.rates", "true", "number"]),
        ("sampling:", "sampling: [\n", ["line", "fix the YAML"]),
        ("size: 64", "size: 65", ["size", "65", "multiple of 16"]),
        ("train: 400", "train: many", ["train", "'many'"]),
        ("rates: [0.3, 3]", "rates: []", ["probing.rates", "[]"]),
        ("mode: cached", "mode: cashed", ["probing.mode", "'cashed'", "'cached'", "'exact'"]),
        (
            "sampling:",
            "judging: {features: {path: x, sha256: aa}}\nsampling:",
            ["judging.features.sha256: found 'aa'", "64 digits", "sha256sum"],
        ),
        ("sampling:", "judging: {features: {path: x, sha: aa}}\nsampling:", ["'judging.features.sha'", "'sha256'"]),
        (
            "sampling:",
            "judging: {features: vgg}\nsampling:",
            ["judging.features: found 'vgg'", "'builtin' or be like {path"],
        ),
    ],
)
def test_a_mistake_in_a_scale_is_told_by_name(root: Path, old: str, new: str, words: list[str]) -> None:
    edit(root, "scales/smoke.yaml", old, new)
    text = mistake(root)
    assert all(word in text for word in ["scales/smoke.yaml", *words]), text


def test_a_sweep_wants_one_number_of_the_paper_for_each_value(root: Path) -> None:
    sweep = "  d:\n    from: pca\n    label: d\n    over: {tokenizer.dim: [8, 16]}\n    paper: {probe: [1]}\n"
    edit(root, "config.yaml", "tables:", f"sweeps:\n{sweep}\ntables:")
    text = mistake(root)
    assert all(word in text for word in ("sweeps.d.paper.probe", "1 numbers for 2 values", "null"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"sedes": 1}, ["--config", "'sedes'", "did you mean 'seeds'"]),
        ({"seeds": "[0,x]"}, ["--config", "seeds.1", "'x'"]),
        ({"seeds": "[0,"}, ["--config", "seeds", "'[0,'"]),
        ({"scale": "lap"}, ["'lap'", "laptop"]),
        ({"study": "nowhere.yaml"}, ["nowhere.yaml", "no such file"]),
        ({"seeds": "0,x"}, ["--config", "seeds.1", "'x'"]),
    ],
)
def test_a_mistake_on_the_command_line_is_told_by_name(root: Path, overrides: dict[str, Any], words: list[str]) -> None:
    text = mistake(root, **overrides)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ("nodes: 2", ["resources", "nodes: 2", "give gpu"]),
        ("nodes: 0, gpu: 1", ["resources.nodes", "0"]),
        ("nodes: 2, gpu: 4", ["resources", "threads: 1", "4 GPUs"]),
    ],
)
def test_a_job_on_several_nodes_needs_a_gpu_and_a_core_for_each_process(
    root: Path, resources: str, words: list[str]
) -> None:
    edit(root, "scales/smoke.yaml", "minutes: 5", f"minutes: 5, {resources}")
    text = mistake(root)
    assert all(word in text for word in words), text


@pytest.fixture
def whole(root: Path) -> Path:
    """The same with the whole study."""
    shutil.copy(ROOT / "config.yaml", root)
    return root


def test_a_schedules_levels_decide_whether_a_row_has_samples(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Levels(tuple(1 - t / 1000 for t in range(1000)), tuple(t / 1000 for t in range(1000)))
    monkeypatch.setitem(SCHEDULES, "gamma2", lambda _: flow)
    text = mistake(whole)
    expected = ("variants.conv_vae", "'gamma2' cannot be sampled from", "should be 1 at every time step", "of ddpm")
    assert all(word in text for word in expected), text


def test_what_a_tokenizer_does_not_use_trains_it_not_again(whole: Path) -> None:
    before = Study.load(whole, {"scale": "smoke"})
    edit(whole, "scales/smoke.yaml", "discriminator_width: 8", "discriminator_width: 4, perceptual_weight: 0.5")
    after = Study.load(whole, {"scale": "smoke"})
    same = {name for name in before.tokenizers if before.tokenizers[name] == after.tokenizers[name]}
    assert {"conv-16", "conv-8", "pca"} <= same
    assert {"conv-16-adversarial", "conv-16-perceptual-adversarial"}.isdisjoint(same)


ROW = "  pca_d8:\n    from: dit\n    label: x\n    set: {noise.schedule: gamma2}\n"
SAMPLES = "rows: [dit, no_labels, no_perceptual, no_adversarial, conv_vae]\n  training"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("VAE, d = {value}", "VAE, d = {dim}", ["conv_vae_d.label", "{dim}"]),
        (SAMPLES, "rows: [ldae]\n  training", ["samples", "'ldae'", "fid"]),
        ("rows: [classical_dae, ldae]", "rows: [mae_b]", ["figure7", "'mae_b'", "does not denoise"]),
        ("filters: {patch-wise VAE: patch_vae,", "filters: {patch-wise VAE: pca_d,", ["figure4.filters", "'pca_d'"]),
        ("linear in γ²: gamma2", "flat: unscaled, one: single", ["figures.figure3.schedules", "'single'"]),
        (
            "set: {noise.schedule: unscaled}",
            "set: {noise.schedule: unscaled}\n    fid: true",
            ["noise.schedule 'unscaled' cannot be sampled from", "should be 1 at every time step", "ddpm, gamma2"],
        ),
        ("linear in γ²: gamma2", "cosine: cosine", ["figures.figure3.schedules.cosine: found 'cosine'", "'unscaled'"]),
        ("  table3:\n    title", "  probe:\n    title", ["'probe'", "the name of a rule"]),
        ("  no_labels:\n    from: dit", f"{ROW}  no_labels:\n    from: dit", ["pca_d", "'pca_d8'", "another row"]),
    ],
)
def test_what_would_fail_only_later_is_refused_at_once(whole: Path, old: str, new: str, words: list[str]) -> None:
    edit(whole, "config.yaml", old, new)
    text = mistake(whole)
    assert all(word in text for word in words), text


def test_a_probe_measures_the_columns_of_every_table_that_shows_it(root: Path) -> None:
    """As does that of its untrained network. No other probe has another lineage, so no other runs again."""
    before = Study.load(root, {})
    edit(
        root, "config.yaml", "tables:\n", "tables:\n  more: {title: More, rows: [single_level], columns: [attentive]}\n"
    )
    study = Study.load(root, {})
    assert study.measures["single_level"] == ("linear", "knn", "attentive")
    lineages = [
        {place: job.lineage for place, job in Graph(each).jobs.items() if not job.is_view} for each in (before, study)
    ]
    changed = [place for place, lineage in lineages[1].items() if lineage != lineages[0][place]]
    assert changed == ["probe/single_level/seed0", f"untrained/{study.untrained['single_level']}/seed0"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("rows: [single_level], columns: [lineal]", "found 'lineal', should be 'linear', "),
        ("rows: [single_level], columns: []", "columns: found [], should not be empty"),
        ("series: {PCA: pca_d}, columns: [knn]", "columns: a table of series shows accuracies only"),
    ],
)
def test_a_column_that_a_table_cannot_have_is_refused_in_one_line(table: str, message: str, root: Path) -> None:
    edit(root, "config.yaml", "tables:\n", f"tables:\n  more: {{title: More, {table}}}\n")
    assert message in mistake(root)


def test_seeds_may_be_a_range(root: Path) -> None:
    assert Study.load(root, {"seeds": "0-3, 7"}).file.seeds == [0, 1, 2, 3, 7]
    edit(root, "config.yaml", "seeds: [0]", "seeds: 2-4")
    assert Study.load(root, {}).file.seeds == [2, 3, 4]
    with pytest.raises(StudyError, match="'5-3', which ends before it begins"):
        Study.load(root, {"seeds": "5-3"})


def test_a_row_has_the_seeds_that_it_or_its_tables_list(root: Path) -> None:
    edit(root, "config.yaml", "seeds: [0]", "seeds: 0-9")
    edit(root, "config.yaml", "  table3:\n", "  table3:\n    seeds: 0-3\n")
    edit(root, "config.yaml", "  predict_clean:\n", "  predict_clean:\n    seeds: 5-7, 20\n")
    study = Study.load(root, {})
    assert (study.seeds["pca"], study.seeds["predict_clean"]) == ((0, 1, 2, 3), (5, 6, 7))
    assert "seeds: none of its own" in mistake(root, seeds="0-3")


def test_parts_that_are_shared_are_those_of_seed_0(root: Path) -> None:
    edit(root, "scales/smoke.yaml", "dataset: {", "shared: [dataset, tokenizer]\ndataset: {")
    graph = Graph(Study.load(root, {"seeds": "3, 4"}))
    assert [place for place in graph.jobs if place.startswith("tokenizers/")] == ["tokenizers/pca/seed0"]
    assert graph.jobs["pretrain/pca/seed4"].inputs["tokenizer"].place == "tokenizers/pca/seed0"
    assert graph.jobs["pretrain/pca/seed4"].lineage["tokenizer"]["spec"]["shared"]
    edit(root, "scales/smoke.yaml", "shared: [dataset, tokenizer]", "shared: [tokenizer]")
    assert "was trained with images that other seeds hold out; add dataset" in mistake(root)
