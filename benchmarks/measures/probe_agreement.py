"""The cached linear probe against the exact one, on finished rows: accuracies, their paired difference, and the time.

    python -m benchmarks.measures.probe_agreement results/laptop pca ldae

`exact` computes the features of a new augmentation in each epoch, `cached` takes a few augmentations in turn, or the
centre crop alone (0 views).
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldae.data.division import Division
from ldae.measures.intervals import grouped_mean
from ldae.parts.loading import stage_of
from ldae.runtime.device import device_name, pick_device
from ldae.runtime.files import read_json, write_json
from ldae.stages.probe import probe, probe_untrained
from ldae.study.recipes import Probing
from ldae.study.results import RunRecord
from ldae.study.spec import Features
from ldae.study.stage_specs import ProbeStage, UntrainedFeatures, UntrainedStage

RESULTS = Path(__file__).parents[1] / "results"
ENCODERS = ("trained/0", "random/0")  # at the encoder's last block
SETTINGS = (
    {"mode": "cached", "views": 0},
    {"mode": "cached", "views": 1},
    {"mode": "cached", "views": 2},
    {"mode": "exact"},
)


def compare(results: Path, row: str) -> dict[str, Any]:
    """One row, seed 0, and the network that it started from, probed in every mode."""
    model = results / "pretrain" / row / "seed0"
    run = RunRecord.read(model / "run.json")
    start = stage_of(run)
    folders = {"dataset": results / "dataset", "tokenizer": results / "tokenizers" / start.tokenizer.name / "seed0"}
    spec = read_json(results / "probe" / row / "seed0" / "probe.json")["lineage"]["probe"]["spec"]
    groups = Division.open(results / "dataset", "val", 0).groups
    correct, rows = {}, {}
    for setting in SETTINGS:
        probing = Probing.model_validate(spec["probing"] | {"views": 1} | setting)
        untrained = UntrainedStage(features=UntrainedFeatures.of(start, Features()), probing=probing)
        name = " ".join(map(str, setting.values()))
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            begin = time.perf_counter()
            probe(ProbeStage(probing=probing), row=row, revision=1, model=model, out=out / ENCODERS[0], **folders)
            probe_untrained(untrained, row=row, seed=run.seed, revision=1, out=out / ENCODERS[1], **folders)
            seconds = time.perf_counter() - begin
            correct[name] = {kind: np.load(out / kind / "correct.npz")["0/linear"].astype(float) for kind in ENCODERS}
        rows[name] = {"seconds": round(seconds, 1)} | {kind: float(correct[name][kind].mean()) for kind in ENCODERS}
    for name in rows:
        if name != "exact":
            for kind in ENCODERS:
                difference = grouped_mean(correct[name][kind] - correct["exact"][kind], groups)
                rows[name][f"{kind} less exact [95 %]"] = [round(float(part), 4) for part in difference]
    return rows


def main() -> None:
    """Compares the rows named on the command line."""
    torch.set_num_threads(1)
    results, *names = sys.argv[1:]
    device = pick_device()
    report = {
        "what": "top-1 of the linear probe, cached features against exact augmentation",
        "device": device_name(device),
        "torch": torch.__version__,
        "rows": {name: compare(Path(results), name) for name in names},
    }
    write_json(RESULTS / f"probe_agreement-{device.type}.json", report)
    for name, modes in report["rows"].items():
        for mode, numbers in modes.items():
            print(name, mode, numbers)


if __name__ == "__main__":
    main()
