"""What each stage reads of a row and a scale, word for word: results on disk are recognised by it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from ldae.study.base import Config
from ldae.study.scale import Scale
from ldae.study.spec import Spec
from ldae.study.stage_specs import (
    ClassifierStage,
    DatasetStage,
    FinetuneStage,
    JudgeStage,
    ProbeStage,
    SampleStage,
    pretraining_stage,
    tokenizer_stage,
)

SCALE = Scale.model_validate(
    yaml.safe_load("""
dataset: {source: photos, size: 64, train: 400, val: 200}
sizes:
  B: {width: 24, heads: 2, encoder_blocks: 1, decoder_blocks: 1}
  half-L: {width: 32, heads: 2, encoder_blocks: 1, decoder_blocks: 1}
  L: {width: 32, heads: 2, encoder_blocks: 2, decoder_blocks: 2}
convolutional: {steps: 12, batch: 8, rate: 1.0e-3}
classifiers:
  vgg: {width: 4, steps: 20, batch: 16, rate: 2.0e-3}
  resnet: {width: 4, steps: 20, batch: 16, rate: 2.0e-3}
training: {steps: 40, batch: 16, rate: 1.6e-2, warmup: 0.1}
baselines:
  mae: {steps: 20, batch: 16, rate: 1.6e-2, warmup: 0.1}
  moco_v3: {steps: 20, batch: 16, rate: 1.6e-2, warmup: 0.1}
finetuning: {steps: 12, batch: 16, rate: 1.6e-2, warmup: 0.1}
probing: {mode: cached, rates: [0.3, 3]}
""")
)
LDAE = Spec().changed(
    {
        "noise.schedule": "unscaled",
        "network.input": "image",
        "network.output": "image",
        "objective.predict": "clean",
        "objective.weight": "signal",
        "objective.tail": 0.1,
    }
)
LONGER = LDAE.changed({"recipe.crop": "random", "recipe.length": 4})
MAE, MOCO = (LONGER.changed({"method.name": name}) for name in ("mae", "moco_v3"))
CONV = LDAE.changed(
    {"tokenizer.kind": "conv", "network.input": "latent", "network.output": "latent", "objective.tail": 0}
)
STAGES: dict[str, Config] = {
    "dataset": DatasetStage(dataset=SCALE.dataset),
    "classifier": ClassifierStage(architecture="vgg", classifier=SCALE.classifiers["vgg"]),
    "pca": tokenizer_stage(LDAE.tokenizer, SCALE),
    "conv": tokenizer_stage(CONV.tokenizer, SCALE),
    "ldae": pretraining_stage(LDAE, SCALE),
    "longer": pretraining_stage(LONGER, SCALE),
    "mae": pretraining_stage(MAE, SCALE),
    "moco_v3": pretraining_stage(MOCO, SCALE),
    "probe": ProbeStage(probing=SCALE.probing),
    "finetune": FinetuneStage.of(LONGER, SCALE),
    "sample": SampleStage(sampling=SCALE.sampling),
    "judge": JudgeStage(judging=SCALE.judging),
}
RECORDED: dict[str, dict[str, Any]] = yaml.safe_load("""
dataset: {dataset: {source: photos, size: 64, train: 400, val: 200}}
classifier: {architecture: vgg, classifier: {width: 4, steps: 20, batch: 16, rate: 0.002}}
pca: {}
conv: {dim: 32, convolutional: {steps: 12, batch: 8, rate: 0.001}}
ldae: &ldae
  noise: {schedule: unscaled}
  network: {input: image, output: image}
  objective: {predict: clean, weight: signal, tail: 0.1}
  size: &size {width: 32, heads: 2, encoder_blocks: 1, decoder_blocks: 1}
  training: {steps: 40, batch: 16, rate: 0.016, warmup: 0.1}
longer:
  <<: *ldae
  recipe: {crop: random, length: 4.0}
mae: {size: *size, mae: {steps: 20, batch: 16, rate: 0.016, warmup: 0.1}}
moco_v3: {size: *size, moco_v3: {steps: 20, batch: 16, rate: 0.016, warmup: 0.1}}
probe: {probing: {mode: cached, rates: [0.3, 3.0]}}
finetune: {finetuning: {steps: 12, batch: 16, rate: 0.016, warmup: 0.1}, layer_decay: 0.65}
sample: {sampling: {}}
judge: {judging: {}}
""")


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_reads_is_written_as_ever_so_that_results_on_disk_stay_current(stage: str) -> None:
    assert json.loads(STAGES[stage].to_json()) == RECORDED[stage], (
        "with this change every result on disk would be outdated; a new field has a default that means 'as before'"
    )


@pytest.mark.parametrize(("row", "method"), [(LDAE, "training"), (LONGER, "training"), (MAE, "mae"), (MOCO, "moco_v3")])
def test_a_row_changes_the_rate_the_batch_and_the_weight_decay_of_its_recipe(row: Spec, method: str) -> None:
    before = SCALE.recipe_for(row.method.name)
    after = SCALE.training_of(row.changed({"recipe.rate": 3, "recipe.batch": 2, "recipe.weight_decay": 0.3}))
    assert (after.rate, after.batch, after.weight_decay) == (3 * before.rate, 2 * before.batch, 0.3)
    assert after.peak_rate == 6 * before.peak_rate  # by the linear rule
    assert after.total_steps(400) * after.batch == before.total_steps(400) * before.batch  # as many images
    assert (after.warmup, after.ema) == (before.warmup, before.ema)
    changed = row.changed({"recipe.rate": 3})
    stage = pretraining_stage(changed, SCALE)
    before_it = RECORDED[{"training": "longer" if row is LONGER else "ldae"}.get(method, method)]
    assert json.loads(stage.to_json()) == before_it | {method: before_it[method] | {"rate": 3 * before.rate}}


def test_a_length_in_epochs_sees_as_many_images_with_another_batch() -> None:
    scale = SCALE.model_copy(update={"training": SCALE.training.model_copy(update={"steps": None, "epochs": 2.0})})
    halved = scale.training_of(LDAE.changed({"recipe.batch": 0.5}))
    assert (halved.batch, halved.total_steps(400)) == (8, 100)


def test_a_row_of_another_method_has_that_methods_own_recipe() -> None:
    tuned = LONGER.changed({"recipe.rate": 3, "recipe.batch": 2, "recipe.weight_decay": 0.3})
    assert tuned.changed({"method.name": "mae"}) == MAE
    assert tuned.changed({"method.name": "mae", "recipe.rate": 2}).recipe.rate == 2
    assert tuned.changed({"network.size": "B"}).recipe == tuned.recipe


def test_fine_tuning_follows_the_scale_whatever_a_row_says_of_its_pretraining() -> None:
    changed = LONGER.changed({"recipe.rate": 3, "recipe.batch": 2, "recipe.weight_decay": 0.3})
    assert FinetuneStage.of(changed, SCALE) == STAGES["finetune"]
