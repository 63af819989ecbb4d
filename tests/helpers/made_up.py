"""The results of a study, made up, as its stages would leave them; and the views that its readers make of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from manifests import write_manifest, write_numbers
from safetensors.numpy import save_file

from ldae.readers.claims import ClaimsRecord, write_claims
from ldae.readers.figures import Inputs, write_figure
from ldae.readers.layout import TableRecord
from ldae.readers.results import Results, collect
from ldae.readers.tables import write_cost, write_table
from ldae.readers.variations import VariationRecord, Varied, write_variation
from ldae.runtime.files import checksums, write_json
from ldae.study.definitions import (
    FigureDefinition,
    ViewDefinition,
    claims_definition,
    figure_definition,
    table_definition,
    variation_definition,
)
from ldae.study.graph import Graph
from ldae.study.record import Lineage
from ldae.study.results import (
    PIXELS,
    DistanceRecord,
    Estimates,
    LeftOut,
    ProbeEstimate,
    ProbeRecord,
    Record,
    TokenizerRecord,
)
from ldae.study.stage_specs import ProbeStage, UntrainedStage
from ldae.study.study import Study

NUM = 200  # validation images


def provenance(started: float) -> dict[str, Any]:
    return {
        "commit": "0123456789ab",
        "versions": {"python": "3.11.7", "torch": "2.15.0", "numpy": "2.4.6"},
        "device": "a processor",
        "started": started,
        "seconds": 10.0,
        "import_seconds": 2.0,
        "peak_memory_mb": 500,
    }


class MadeUp:
    """A results folder of a study."""

    def __init__(self, study: Study, folder: Path) -> None:
        self.study, self.folder = study, folder
        self.rng = np.random.default_rng(0)
        self.graph = Graph(study)
        self.started = 1_700_000_000.0
        self.records: list[Path] = []
        self._shared()
        for seed in study.file.seeds:
            for row in study.variants:
                self._row(row, seed)

    def lineage(self, place: str) -> Lineage:
        """What the result at a place should be made from."""
        return self.graph.job_at(place).lineage

    def record(self, place: str, name: str, typed: type[Record] | None = None, /, **about: Any) -> None:
        """Writes the record of the result at a place, through the product's own type where it has one."""
        self.started += 60
        target = self.folder / place / name
        about |= {"lineage": self.lineage(place), "provenance": provenance(self.started)}
        if typed is None:
            write_json(target, about)
        else:
            typed(**about).write(target)
        if not place.startswith("pixels/"):
            self.records.append(target)

    def save(self, path: str, **arrays: Any) -> Path:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".npy":
            np.save(target, next(iter(arrays.values())))
        elif target.suffix == ".npz":
            np.savez(target, **arrays)
        else:
            save_file(arrays, target)
        return target

    def _shared(self) -> None:
        study = self.study
        classes = list("abcde")
        labels = np.concatenate([np.arange(20) // 4, np.arange(NUM) % 5])
        groups = np.concatenate([np.arange(20), 20 + np.arange(NUM) // 4])
        sums = write_numbers(self.folder / "dataset", train=20, labels=labels, groups=groups)
        self.save("dataset/images.npy", images=self.rng.integers(256, size=(20, 3, 64, 64)).astype(np.uint8))
        write_manifest(
            self.folder / "dataset",
            size=64,
            classes=classes,
            images=NUM // 5,
            lineage=self.lineage("dataset"),
            broken=({"path": "a/broken.jpg", "reason": "is empty"},),
            left_out=LeftOut(endings={".gif": 2, ".txt": 1}, hidden=1),
            sha256=sums,
        )
        for seed in study.file.seeds:
            place = f"pixels/seed{seed}"
            blocks = self._probe(place, [0], 0.2, knn=0.1)
            self.record(place, "probe.json", ProbeRecord, row=PIXELS, seed=seed, blocks=blocks)
            self._tokenizers(seed)
        self.record("classifiers/resnet/seed0", "classifier.json", seed=0)

    def _tokenizers(self, seed: int) -> None:
        for name in self.study.tokenizers:
            place = f"tokenizers/{name}/seed{seed}"
            basis = self.rng.standard_normal((32, 768))
            fit = self.save(f"{place}/tokenizer.safetensors", basis=basis, variance=np.ones(32))
            kind, dim = [*name.split("-"), "32"][:2]
            about = {"kind": kind, "psnr": {int(dim): 25.0}, "dims": 32, "collapsed_dims": 0, "seed": seed}
            self.record(place, "tokenizer.json", TokenizerRecord, **about, sha256=checksums(fit))

    def _correct(self, share: float) -> Any:
        return (self.rng.permutation(NUM) < round(NUM * share)).astype(np.uint8)

    def _probe(self, place: str, offsets: Sequence[int], share: float, *, knn: float) -> dict[int, Estimates]:
        """Saves the arrays of a probe; returns its estimates, by block and measure."""
        arrays, blocks = {}, dict[int, Estimates]()
        for offset in offsets:
            blocks[offset] = {}
            choice = {"rate": 3.0, "held_out": share, "rate_at_edge": True}
            for measure, value, more in (("linear", share, choice), ("knn", knn, {})):
                name = f"{offset}/{measure}"
                arrays[name] = self._correct(value)
                about = {"value": value, "low": value - 0.1, "high": value + 0.1, "correct": name} | more
                blocks[offset][measure] = ProbeEstimate.model_validate(about)
        self.save(f"{place}/correct.npz", **arrays)
        return blocks

    def _row(self, row: str, seed: int) -> None:
        study, place = self.study, f"{row}/seed{seed}"
        about = {"row": row, "run": study.runs[row], "seed": seed, "training_flops": 1e12}
        if study.runs[row] == row:
            self.record(f"pretrain/{place}", "run.json", **about)
            steps = np.arange(1, 9)
            history = {"step": steps, "images": 16 * steps, "loss": 1 / steps, "gradient_norm": 2 / steps}
            pd.DataFrame(history).to_csv(self.folder / f"pretrain/{place}/history.csv", index=False)
        if study.probes[row] == row:
            offsets = ProbeStage.for_job(study, {"row": row}).offsets
            blocks = self._probe(f"probe/{place}", offsets, 0.3 + 0.4 * self.rng.random(), knn=0.3)
            self.record(f"probe/{place}", "probe.json", ProbeRecord, **about, blocks=blocks)
        if study.untrained[row] == row:
            offsets = UntrainedStage.for_job(study, {"row": row}).offsets
            blocks = self._probe(f"untrained/{place}", offsets, 0.25, knn=0.3)
            self.record(f"untrained/{place}", "probe.json", ProbeRecord, row=row, seed=seed, blocks=blocks)
        if study.variants[row].fid:
            measured = {"value": 30.0, "infinite": 29.0 + seed, "error": 1.0, "judge_accuracy": 0.6, "num": 100}
            about = {"row": row, "seed": seed, "distance": "Fréchet distance (judge)"} | measured
            self.record(f"judge/{place}", "distance.json", DistanceRecord, **about)

    def _results(self, definition: ViewDefinition) -> Results:
        return collect(
            definition,
            dataset=self.folder / "dataset/manifest.json",
            probes=self._probes("probe"),
            untrained=self._probes("untrained"),
            pixels=sorted(self.folder.glob("pixels/*/probe.json")),
            distances=[path for path in self.records if path.name == "distance.json"],
        )

    def _probes(self, folder: str) -> list[Path]:
        return [path for path in self.records if path.match(f"{folder}/*/*/probe.json")]

    def views(self) -> Path:
        """Writes all tables, figures, verdicts and the cost; returns the latter."""
        study, tables = self.study, self.folder / "tables"
        for name, table in study.file.tables.items():
            definition = table_definition(self.graph, name)
            fits = [path for path in self.records if path.name == "tokenizer.json"] if table.series else []
            layout = write_table(definition, self._results(definition), tokenizers=fits, out=tables / name)
            TableRecord(lineage={}, layout=layout).write(tables / f"{name}.json")
        for name in study.file.figures:
            self.draw(name, out=self.folder / "figures" / name)
        claims = claims_definition(self.graph)
        judgement = write_claims(claims, self._results(claims), out=tables / "claims")
        ClaimsRecord(lineage={}, judgement=judgement).write(tables / "claims.json")
        for name in study.variations:
            self.variation(name)
        return self.cost(self.records, tables / "cost_all")

    def variation(self, name: str) -> Varied:
        """Writes the claims under a variation; returns the same."""
        definition, out = variation_definition(self.graph, name), self.folder / f"tables/claims_{name}"
        judged = write_variation(definition, self._results(definition), out=out)
        record = VariationRecord(lineage=self.graph.jobs[f"tables/claims_{name}"].lineage, judged=judged)
        write_json(out.with_suffix(".json"), record.model_dump(mode="json", exclude_defaults=True))
        return judged

    def cost(self, records: list[Path], out: Path) -> Path:
        """Writes the table of cost of some records; returns its record."""
        record = out.with_suffix(".json")
        TableRecord(lineage={}, layout=write_cost(records, out=out)).write(record)
        return record

    def draw(self, name: str, *, out: Path) -> None:
        """Writes one figure."""
        definition = figure_definition(self.graph, name)
        write_figure(definition, self._inputs(self.study.file.figures[name].kind, definition), out=out)

    def _inputs(self, kind: str, definition: FigureDefinition) -> Inputs:
        runs = dict.fromkeys(row.run for row in definition.rows)
        images = np.random.default_rng(0).integers(256, size=(16, 3, 32, 32)).astype(np.uint8)
        pictures = {"clean": images, "noisy": images, "denoised": images}
        if kind == "curves":
            return Inputs(histories=[self.folder / f"pretrain/{run}/seed0/history.csv" for run in runs])
        if kind in ("noise", "denoising"):
            return Inputs(pictures=[self.save(f"denoise/{run}/seed0/pictures.npz", **pictures) for run in runs])
        if kind == "samples":
            drawn = [self.save(f"samples/{run}/seed0/examples.npy", images=images) for run in runs]
            for path in drawn:
                about = {"lineage": self.lineage(str(path.parent.relative_to(self.folder)))}
                about |= {"provenance": provenance(self.started), "sha256": checksums(path)}
                write_json(path.with_name("samples.json"), about)
            return Inputs(samples=drawn)
        fits = sorted(self.folder.glob("tokenizers/*/seed0/tokenizer.safetensors"))
        return Inputs(self._results(definition), tokenizers=fits)
