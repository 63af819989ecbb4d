"""What the documents tell a user to write and to type is accepted as it stands there."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rows import FITTED, TRAINING, denoiser, images
from torch import Tensor

from ldae.cli import parser
from ldae.parts.denoiser import Denoiser
from ldae.parts.noise import Level, NoiseSchedule
from ldae.parts.objective import PREDICTIONS
from ldae.stages.pretrain import Pretraining
from ldae.study.file import StudyFile
from ldae.study.scale import Scale
from ldae.study.schedules import SCHEDULES
from ldae.study.spec import Noise, Objective
from ldae.study.study import Study
from ldae.training.loop import Run

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SCALES = ("smoke", "laptop", "gpu", "imagenet")
SUM = "a" * 64  # for a checksum that the reader fills in
VAE = f"convolutional: {{published: {{path: vae.safetensors, sha256: {SUM}}}}}"


def blocks(*kinds: str) -> Iterator[tuple[str, str]]:
    """The blocks of some kinds in all documents, each with its place."""
    for path in DOCUMENTS:
        text = path.read_text()
        for block in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if block[1] in kinds:
                yield f"{path.name}:{text[: block.start()].count(chr(10)) + 1}", block[2]


def filled(text: str) -> dict[str, Any]:
    """A block of YAML with checksums in the places that the reader fills in."""
    values: dict[str, Any] = yaml.safe_load(re.sub(r'sha256: ("\.\.\."|\.\.\.)', f"sha256: {SUM}", text))
    return values


def is_of_a_scale(values: dict[str, Any]) -> bool:
    """Whether a block is a scale's file, or a piece of one; the others are entries of the study."""
    return "from" in values or set(values) <= set(Scale.model_fields)


CONFIGURATION = {place: filled(text) for place, text in blocks("yaml")}
OF_SCALES = {place: values for place, values in CONFIGURATION.items() if is_of_a_scale(values)}
OF_STUDIES = {place: values for place, values in CONFIGURATION.items() if not is_of_a_scale(values)}
COMMANDS = {
    f"{place}: {line}": line
    for place, block in blocks("", "bash")
    for line in block.splitlines()
    if line.startswith("ldae ") and "..." not in line
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the study and the scales of the project."""
    shutil.copy(ROOT / "config.yaml", tmp_path)
    (tmp_path / "scales").mkdir()
    for scale in SCALES:
        shutil.copy(ROOT / f"scales/{scale}.yaml", tmp_path / "scales")
    return tmp_path


@pytest.mark.parametrize("values", OF_SCALES.values(), ids=OF_SCALES)
def test_what_a_document_shows_of_a_scale_loads(values: dict[str, Any], root: Path) -> None:
    (root / "scales/mine.yaml").write_text(yaml.safe_dump({"from": "laptop"} | values))
    Study.load(root, {"scale": "mine"})


def test_what_the_documents_show_of_a_study_loads(root: Path) -> None:
    (root / "scales/mine.yaml").write_text(f"from: laptop\n{VAE}\n")
    study = yaml.safe_load((root / "config.yaml").read_text())
    for values in OF_STUDIES.values():
        sections = values if set(values) <= set(StudyFile.model_fields) else {"variants": values}
        for section, entries in sections.items():
            study[section] |= entries
    (root / "config.yaml").write_text(yaml.safe_dump(study, sort_keys=False, allow_unicode=True))
    Study.load(root, {"scale": "mine"})


def test_the_row_that_the_readme_begins_with_is_one_of_the_study() -> None:
    name, row = next(iter(next(iter(OF_STUDIES.values())).items()))
    assert yaml.safe_load((ROOT / "config.yaml").read_text())["variants"][name] == row


@pytest.mark.parametrize("line", COMMANDS.values(), ids=COMMANDS)
def test_a_command_is_one(line: str) -> None:
    parser().parse_args(shlex.split(line, comments=True)[1:])


class Velocity:
    """Velocity prediction, as the README describes it."""

    def target(self, clean: Tensor, noise: Tensor, level: Level) -> Tensor:
        return level.signal * noise - level.noise * clean

    def clean(self, output: Tensor, noisy: Tensor, level: Level) -> Tensor:
        return (level.signal * noisy - level.noise * output) / (level.signal**2 + level.noise**2)


def test_the_readme_s_velocity_can_be_inverted_and_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PREDICTIONS, "velocity", Velocity())
    clean, noise = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    for schedule in SCHEDULES:
        level = NoiseSchedule(Noise(schedule=schedule)).double().level(torch.zeros(3, dtype=torch.int64))
        noisy = level.signal * clean + level.noise * noise
        recovered = Velocity().clean(Velocity().target(clean, noise, level), noisy, level)
        torch.testing.assert_close(recovered, clean)
    stage, _ = denoiser("pca")
    objective = Objective.model_construct(predict="velocity", weight="uniform", tail=0.0, units="pixel")
    stage = stage.model_copy(update={"objective": objective})
    model = Denoiser(stage, FITTED[stage.tokenizer.name], image_size=32, classes=3)
    run = Run(
        Pretraining(model, stage),
        title="velocity",
        seed=0,
        total=60,
        batch=TRAINING.batch,
        log_every=1,
        identity="",
    )
    losses = [float(run.update(images(), torch.arange(8) % 3)["loss"]) for _ in range(30)]
    assert losses[-1] < losses[0]
