"""How long the stages of a study take at recipes near the laptop scale's, from its recorded run."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from ldae.data.sources import opening
from ldae.study.cost import Costs, DataSize, pretrain_macs
from ldae.study.graph import Graph, Job
from ldae.study.scale import Dataset
from ldae.study.stage_specs import PretrainStage
from ldae.study.study import Study

RECORDED = Path(__file__).parents[1] / "results/study-laptop-cpu.json"
# Of the time of a training step at laptop scale, the share that does not depend on its arithmetic. Steps with half or
# twice the batch, 48 to 96 channels and 16 or 36 tokens take what this says, within 15 %.
FIXED = 0.25


COMMANDS = {"main": "make", "all": "make_and_all"}  # the common targets, and how the recorded run calls them


class Clock:
    """How long jobs take on the machine whose run of the laptop scale is recorded, with one thread each."""

    def __init__(self, study: Study, target: str) -> None:
        """Takes the FLOP/s of each stage from that run of a target; `study` is the laptop scale with one seed."""
        measured = json.loads(RECORDED.read_text())
        self.target: str = target
        self.stages: dict[str, dict[str, float]] = measured[f"stages_of_{COMMANDS[target]}"]
        flops: dict[str, float] = dict.fromkeys(self.stages, 0.0)
        costs = _costs(study)
        for job in Graph(study).all_jobs_for([target]):
            if job.entry is not None and job.stage in flops:
                # In that run a probe was of the trained and of the untrained network.
                factor = {"probe": 2, "probe_untrained": 0}.get(job.entry.name, 1)
                flops[job.stage] += factor * costs.of(job).flops
        self.step = _step(study)
        self.rates = {name: flops[name] / (stage["seconds"] - stage["imports"]) for name, stage in self.stages.items()}
        busy = sum(stage["seconds"] for stage in self.stages.values())
        self.wall: float = float(measured[f"seconds_of_{COMMANDS[target]}"]) / busy  # of two cores, idle ones included

    def seconds(self, study: Study, jobs: list[Job]) -> float:
        """The sum over some jobs of a study."""
        costs, slower = _costs(study), FIXED * self.step / _step(study) + 1 - FIXED
        total = 0.0
        for job in jobs:
            if job.stage in self.rates:
                start = self.stages[job.stage]["imports"] / self.stages[job.stage]["jobs"]
                factor = slower if job.stage in ("pretrain", "finetune") else 1.0
                total += start + factor * costs.of(job).flops / self.rates[job.stage]
        return total

    def minutes(self, study: Study) -> float:
        """The target from nothing on two cores."""
        busy = self.seconds(study, Graph(study).all_jobs_for([self.target]))
        return self.wall * busy / 60


def _step(study: Study) -> float:
    """The FLOPs of a step of the PCA baseline."""
    stage = study.pretraining("pca")
    assert isinstance(stage, PretrainStage)
    return 6.0 * stage.training.batch * pretrain_macs(stage, study.scale.dataset.size)


@cache
def _size(dataset: Dataset) -> DataSize:
    return DataSize(*opening.count(dataset))


def _costs(study: Study) -> Costs:
    return Costs(study, _size(study.scale.dataset))
