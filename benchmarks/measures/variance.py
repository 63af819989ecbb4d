"""Where the variance of accuracies comes from: a pilot with splits, tokenizers and networks drawn apart.

Each split has several tokenizers, each tokenizer several networks. The components of variance, of each row's accuracy
and of paired differences of rows, come from the mean squares of this nested design (Searle, Casella and McCulloch,
Variance Components, 1992, Sec. 3.6).

    python -m benchmarks.measures.variance --folder ../pilot --images results/laptop/dataset --cores 2

It uses the project's own commands, skips what it finds in the folder, and writes `benchmarks/results/variance.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldae.data.division import UNDIVIDED, Division, SplitName
from ldae.measures.intervals import resampled_means
from ldae.runtime.arrays import read_arrays
from ldae.runtime.files import checksums, read_json, write_json
from ldae.runtime.machine import cpu_name
from ldae.study.graph import Graph, Job
from ldae.study.results import ProbeRecord
from ldae.study.study import Study

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks/results/variance.json"
ROWS = ("pca", "predict_clean", "ldae", "conv_vae")
PAIRS = (("pca", "predict_clean"), ("ldae", "predict_clean"), ("pca", "ldae"), ("pca", "conv_vae"))
SPLITS, TOKENIZERS, NETWORKS = 4, 2, 2  # tokenizers are of a split, networks of a tokenizer
Cell = tuple[int, int, int]  # a split, a tokenizer and a network


class Measured(NamedTuple):
    """The accuracies of a row in a cell, in percent."""

    trained: float
    untrained: float
    draws: NDArray[np.float64]  # the trained one's means over resampled groups of images


class Pilot:
    """The jobs of the pilot, in a folder."""

    def __init__(self, folder: Path, scale: str, images: Path) -> None:
        """Divides the prepared `images` of a scale."""
        self.folder, self.images = folder, images
        self.graph = Graph(Study.load(ROOT, {"scale": scale}))

    def dataset(self, split: int) -> Path:
        """The images with the split of one replication, as a data set whose split is given."""
        folder = self.folder / f"split{split}/dataset"
        if not (folder / "manifest.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            for path in self.images.iterdir():
                if path.name not in ("parts.npy", "manifest.json") and not (folder / path.name).exists():
                    (folder / path.name).symlink_to(path.resolve())
            parts = np.full(len(np.load(self.images / "parts.npy")), UNDIVIDED, dtype=np.int64)
            names: tuple[SplitName, ...] = ("train", "val")
            for part, name in enumerate(names):
                parts[Division.open(self.images, name, split).index] = part
            np.save(folder / "parts.npy", parts)
            manifest = read_json(self.images / "manifest.json")
            manifest["sha256"] |= checksums(folder / "parts.npy")
            write_json(folder / "manifest.json", manifest)
        return folder

    def tokenizer(self, name: str, split: int, tokenizer: int) -> Path:
        """A tokenizer of a split; it counts as shared, so that networks of other seeds may use it."""
        return self._done(self.graph.jobs[f"tokenizers/{name}/seed0"], split, tokenizer, 0, spec={"shared": True})

    def measured(self, row: str, cell: Cell) -> Measured:
        """The accuracies of a row, trained and with random weights."""
        own = self.graph.study.untrained[row]
        probes = [
            self._done(self.graph.jobs[f"{place}/seed0"], *cell) for place in (f"probe/{row}", f"untrained/{own}")
        ]
        groups = Division.open(self.dataset(cell[0]), "val", 0).groups
        correct = []
        for folder in probes:
            name = ProbeRecord.read(folder / "probe.json").blocks[0]["linear"].correct or ""
            correct.append(100 * read_arrays(folder / "correct.npz", [name])[name].astype(np.float64))
        return Measured(correct[0].mean(), correct[1].mean(), resampled_means(correct[0], groups))

    def _done(self, job: Job, split: int, tokenizer: int, network: int, *, spec: dict[str, Any] | None = None) -> Path:
        """The folder of a job's result, which is computed if it is absent."""
        assert job.entry is not None
        is_tokenizer = job.stage == "tokenizer"
        where = f"split{split}/tokenizer{tokenizer}" + ("" if is_tokenizer else f"/network{network}")
        out = self.folder / where / str(Path(job.place).parent)
        if (out / job.record.name).is_file():
            return out
        inputs: dict[str, Path] = {}
        for option, before in job.inputs.items():
            if option == "dataset":
                inputs[option] = self.dataset(split)
            elif option == "tokenizer":
                inputs[option] = self.tokenizer(before.key["tokenizer"], split, tokenizer)
            else:
                inputs[option] = self._done(before, split, tokenizer, network)
        seed = 100 * split + 10 * tokenizer + network  # no two cells share the randomness of anything
        own = {key: value for key, value in job.spec.items() if key != "offsets"}  # one block is enough
        words = ["--spec", json.dumps(own | (spec or {})), "--out", str(out)]
        words += [word for option, path in inputs.items() for word in (f"--{option}", str(path))]
        words += ["--row", job.key["row"]] if "row" in job.entry.options else []
        words += ["--seed", str(seed)] if "seed" in job.entry.options else []
        words += ["--resume", str(self.folder / where / "resume" / job.place)] if "resume" in job.entry.options else []
        log = self.folder / where / "logs" / f"{job.place.replace('/', '-')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with log.open("w") as file:
            command = [sys.executable, "-m", "ldae.cli", job.entry.command, *words]
            subprocess.run(command, check=True, stdout=file, stderr=file, env=environment, cwd=ROOT)
        return out


def components(values: NDArray[np.float64]) -> dict[str, float]:
    """The components of variance of values (splits, tokenizers, networks), squared; some can be negative."""
    splits, tokenizers, networks = values.shape
    within = values.var(axis=2, ddof=1).mean()
    of_tokenizers = networks * values.mean(2).var(axis=1, ddof=1).mean()
    of_splits = tokenizers * networks * values.mean((1, 2)).var(ddof=1)
    return {
        "splits": float((of_splits - of_tokenizers) / (tokenizers * networks)),
        "tokenizers": float((of_tokenizers - within) / networks),
        "networks": float(within),
    }


def main() -> None:
    """Runs what is left of the pilot, and writes the components."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for all results; a pilot that was stopped goes on")
    parser.add_argument("--images", type=Path, required=True, help="the prepared images of the scale")
    parser.add_argument("--scale", default="laptop")
    parser.add_argument("--cores", type=int, default=1)
    arguments = parser.parse_args()
    pilot = Pilot(arguments.folder.resolve(), arguments.scale, arguments.images)
    cells = list(product(range(SPLITS), range(TOKENIZERS), range(NETWORKS)))
    for split in range(SPLITS):
        pilot.dataset(split)

    def of_tokenizer(pair: tuple[int, int]) -> dict[Cell, dict[str, Measured]]:
        own = [cell for cell in cells if cell[:2] == pair]
        return {cell: {row: pilot.measured(row, cell) for row in ROWS} for cell in own}

    found: dict[Cell, dict[str, Measured]] = {}
    with ThreadPoolExecutor(arguments.cores) as pool:  # the jobs of one tokenizer run one after the other
        for part in pool.map(of_tokenizer, product(range(SPLITS), range(TOKENIZERS))):
            found |= part
            print(f"{len(found)} of {len(cells)} networks a row", flush=True)
    write_json(RESULT, summary(found) | {"scale": arguments.scale, "device": cpu_name()})


def summary(found: dict[Cell, dict[str, Measured]]) -> dict[str, Any]:
    """The components of rows and of pairs, their means, and all accuracies."""
    rows = {row: _parts([cell[row] for cell in found.values()]) for row in ROWS}
    pairs = {}
    for first, second in PAIRS:
        differences = [
            Measured(*(ours - theirs for ours, theirs in zip(cell[first], cell[second], strict=True)))
            for cell in found.values()
        ]
        pairs[f"{first} - {second}"] = _parts(differences)
    gains = {
        row: components(_nested([cell[row].trained - cell[row].untrained for cell in found.values()])) for row in ROWS
    }
    return {
        "what": (
            "Components of variance, in points^2, of an accuracy and of the paired difference of two rows, from a "
            f"nested design: {SPLITS} splits, {TOKENIZERS} tokenizers of each, {NETWORKS} networks of each tokenizer. "
            "`images`: the sampling of validation images, by a bootstrap over groups; `splits`: what else "
            "differs between splits. Negative estimates count as zero. `s`: the standard deviation between "
            "replications, in points."
        ),
        "accuracy": _mean(rows),
        "difference": _mean(pairs),
        "rows": rows,
        "differences": pairs,
        "gains": gains,
        "accuracies": {
            row: {"/".join(map(str, cell)): round(values[row].trained, 3) for cell, values in found.items()}
            for row in ROWS
        },
    }


def _parts(cells: list[Measured]) -> dict[str, float]:
    """The components of an accuracy or a difference, and the standard deviation between independent replications, `s`.

    The sampling of validation images is apart from what else differs between splits. A component whose estimate is
    negative counts as zero; `s` comes from the estimates as they are.
    """
    parts = components(_nested([cell.trained for cell in cells]))
    s = float(np.sqrt(max(0.0, sum(parts.values()))))
    images = float(np.mean([cell.draws.var(ddof=1) for cell in cells]))
    whole = parts | {"splits": parts["splits"] - images, "images": images}
    return {name: round(max(0.0, part), 3) for name, part in whole.items()} | {"s": round(s, 3)}


def _nested(values: list[float]) -> NDArray[np.float64]:
    return np.array(values).reshape(SPLITS, TOKENIZERS, NETWORKS)


def _mean(parts: dict[str, dict[str, float]]) -> dict[str, float]:
    names = next(iter(parts.values()))
    return {name: float(np.mean([part[name] for part in parts.values()])) for name in names}


if __name__ == "__main__":
    main()
