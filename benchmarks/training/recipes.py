"""Which recipe of a scale learns most: all of a list, for a row of each family, on replications that stand in no table.

Each recipe is a scale of its own in a project in `--folder`, which Snakemake runs. Killed at any time, the same command
continues. What two recipes have in common, e.g. images and untrained networks, is computed once.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tabulate import tabulate

from benchmarks.training.duration import Clock
from ldae.overview.show import results_for
from ldae.overview.state import State
from ldae.runtime.files import write_text
from ldae.study.graph import Graph, Job
from ldae.study.record import commit, digest, seconds_of
from ldae.study.results import ProbeRecord
from ldae.study.scale_file import merged
from ldae.study.study import Study

ROOT = Path(__file__).parents[2]
FAMILIES = {
    "convolutional": "conv_vae",
    "patch-wise": "patch_vae",
    "PCA": "pca",
    "images": "ldae",
    "MAE": "mae_b",
    "MoCo v3": "moco_v3_b",
}
SEEDS = (100, 101)
LIMITS = {"main": 15, "all": 40}  # minutes on two cores, of one seed
TIE = 0.2  # points
RULE = (
    "The recipe with the largest median over the families of the gain, with PCA's gain not below today's; of those "
    f"within {TIE} points of it, the one whose `all` takes least time. The gain: the linear probe's accuracy on "
    "held-out training images, of the trained network less the untrained one, in points; mean over seeds "
    f"{' and '.join(map(str, SEEDS))}. Every row has the scale's learning rate."
)


class Recipe(NamedTuple):
    """A recipe: what it changes in the scale, and why it may learn more."""

    name: str
    why: str
    changes: dict[str, Any]


def steps(count: int, batch: int = 32) -> dict[str, Any]:
    """So many steps of denoisers, and MAE and MoCo v3 in the paper's proportion to their images.

    MAE has the same batch; MoCo v3 keeps its own, which is also the number of its negatives. Peak learning rates follow
    from the batch, because scales give them per 256 images.
    """
    moco_v3 = round(0.375 * count * batch / 32)
    baselines = {"mae": {"steps": 4 * count, "batch": batch}, "moco_v3": {"steps": moco_v3}}
    return {"training": {"steps": count, "batch": batch}, "baselines": baselines}


def width(full: int, small: int) -> dict[str, Any]:
    """Networks of this width, with the scale's numbers of heads, and at size B of the `small` one."""
    return {"sizes": {"B": {"width": small}, "half-L": {"width": full}, "L": {"width": full}}}


def longer(factor: int) -> dict[str, Any]:
    """Convolutional tokenizers and MoCo v3, which gain least today, train longer than today by a factor."""
    return {"convolutional": {"steps": 120 * factor}, "baselines": {"moco_v3": {"steps": 188 * factor}}}


SMALL_96 = {"dataset": {"size": 96, "train": 6000, "val": 3000}}  # as many pixels as 13,500 images of today's size
RECIPES = (  # fine-tuning stays as it is
    Recipe("today", "the laptop scale as it is", {}),
    Recipe("steps_1000", "twice the steps", steps(1000)),
    Recipe("steps_1000_longer", "and so the tokenizers and MoCo v3", merged(steps(1000), longer(2))),
    Recipe("narrow", "a narrower network leaves time for 3 times the steps", merged(steps(1500), width(48, 36))),
    Recipe("narrow_longer", "the same with longer tokenizers", merged(merged(steps(1300), width(48, 36)), longer(2))),
    Recipe("batch_64", "twice the batch: less noise in each step", steps(550, batch=64)),
    Recipe("batch_16", "half the batch, as many images as today: steps may be what is missing", steps(1000, batch=16)),
    Recipe("batch_16_long", "half the batch, in three times as many steps", steps(1500, batch=16)),
    Recipe("batch_16_longer", "the same with longer tokenizers", merged(steps(1300, batch=16), longer(2))),
    Recipe("width_80", "a wider network", merged(steps(750), width(80, 60))),
    Recipe("width_96", "a still wider network", merged(steps(550), width(96, 72))),
    Recipe(
        "pixels_96",
        "36 tokens make a harder task; a narrow network, fewer images and shorter tokenizers pay for them",
        merged(merged(steps(600), width(48, 36)), {**SMALL_96, "convolutional": {"steps": 100}}),
    ),
    Recipe(
        "pixels_96_batch_16",
        "36 tokens, with half the batch for more steps",
        merged(merged(steps(900, batch=16), width(48, 36)), {**SMALL_96, "convolutional": {"steps": 100}}),
    ),
    Recipe("longer", "tokenizers and MoCo v3 twice as long, other rows as today", longer(2)),
    Recipe("longer_4", "tokenizers and MoCo v3 four times as long, other rows as today", longer(4)),
    Recipe(
        "views_1",
        "the probe's heads learn from random crops, not from the centre",
        merged(steps(750), {"probing": {"views": 1}}),
    ),
)
NAMES = tuple(recipe.name for recipe in RECIPES)


class Project:
    """The project in which the recipes run."""

    def __init__(self, folder: Path, base: str) -> None:
        """Copies the workflow and the package, and writes the scales and the study, which replace earlier ones."""
        self.folder, self.base = folder, base
        for name in ("workflow", "rules", "scales", "slurm", "ldae"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored, dirs_exist_ok=True)
        for name in ("environment.yml", "config.yaml"):
            shutil.copy(ROOT / name, folder / {"config.yaml": "whole.yaml"}.get(name, name))
        for recipe in RECIPES:
            text = yaml.safe_dump({"from": base} | recipe.changes)
            (folder / "scales" / f"{recipe.name}.yaml").write_text(f"# {recipe.why}\n{text}")
        whole = yaml.safe_load((ROOT / "config.yaml").read_text())
        needed: set[str] = set()
        for name in FAMILIES.values():
            row: str | None = name
            while row is not None:
                needed.add(row)
                row = whole["variants"][row].get("from")
        variants = {
            name: {key: value for key, value in row.items() if key in ("from", "label", "set")}
            for name, row in whole["variants"].items()
            if name in needed
        }
        study = {"seeds": list(SEEDS), "scale": RECIPES[0].name, "revisions": whole["revisions"], "variants": variants}
        (folder / "config.yaml").write_text(yaml.safe_dump(study, sort_keys=False))

    def study(self, recipe: Recipe) -> Study:
        """The families' rows, without fine-tuning and samples."""
        return Study.load(self.folder, {"scale": recipe.name})

    def whole(self, recipe: Recipe) -> Study:
        """The whole study, one seed."""
        return Study.load(self.folder, {"scale": recipe.name, "study": self.folder / "whole.yaml", "seeds": [0]})

    def graph(self, recipe: Recipe) -> Graph:
        """The jobs of the families' rows."""
        return Graph(self.study(recipe), self.folder)

    def identity(self, recipe: Recipe) -> str:
        """A digest of all that the numbers of a recipe depend on."""
        jobs = self.graph(recipe).jobs_for(FAMILIES.values())
        return digest([[job.place, job.lineage] for job in jobs])

    def link(self, recipe: Recipe) -> None:
        """Links the results that an earlier recipe on the list has computed from the same settings."""
        graph = self.graph(recipe)
        for path in list(graph.results.rglob("*")):
            if path.is_symlink():
                path.unlink()  # what it leads to may have been computed anew
        earlier = [State(self.graph(other)) for other in RECIPES[: RECIPES.index(recipe)]]
        for job in graph.all_jobs_for(FAMILIES.values()):
            for state in earlier:
                other, place = state.graph.job_at(job.place), job.record.parent
                if not place.exists() and other.lineage == job.lineage and state.is_current(other):
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.symlink_to(other.record.parent.resolve())

    def run(self, recipe: Recipe, cores: int) -> None:
        """Runs a recipe to its end; raises a `CalledProcessError` if a job fails."""
        self.link(recipe)
        targets = results_for(self.study(recipe), list(FAMILIES.values()))
        options = ["--cores", str(cores), "--show-failed-logs", "--quiet", "rules", "--", *targets]
        command = [sys.executable, "-m", "snakemake", "--config", f"scale={recipe.name}", *options]
        subprocess.run(command, cwd=self.folder, check=True)

    def results(self, recipe: Recipe) -> dict[str, Any]:
        """The held-out accuracies in percent, and the seconds of the jobs, by family and seed."""
        graph, devices = self.graph(recipe), set[str]()
        families: dict[str, dict[str, Any]] = {}
        for family, row in FAMILIES.items():
            seeds: dict[str, dict[str, Any]] = {}
            for seed in SEEDS:
                probe = graph.jobs[f"probe/{graph.study.probes[row]}/seed{seed}"]
                untrained = graph.jobs[f"untrained/{graph.study.untrained[row]}/seed{seed}"]
                jobs = {**probe.inputs, "probe": probe, "untrained": untrained}
                records = {name: json.loads(job.record.read_text()) for name, job in jobs.items() if name != "dataset"}
                devices |= {record["provenance"]["device"] for record in records.values()}
                seeds[str(seed)] = {
                    "trained": _held_out(probe),
                    "untrained": _held_out(untrained),
                    "seconds": {name: round(seconds_of(each["provenance"])) for name, each in records.items()},
                }
            gain = statistics.mean(seed["trained"] - seed["untrained"] for seed in seeds.values())
            families[family] = {"row": row, "gain": round(gain, 2), "seeds": seeds}
        median = statistics.median(family["gain"] for family in families.values())
        about = {"identity": self.identity(recipe), "commit": commit(), "devices": sorted(devices)}
        return about | {"families": families, "median": round(median, 2)}


def _held_out(job: Job) -> float:
    share = ProbeRecord.read(job.record).blocks[0]["linear"].held_out
    assert share is not None  # a linear probe chooses its rate
    return round(100 * share, 2)


def best(recipes: dict[str, dict[str, Any]]) -> str | None:
    """The name of the recipe that the rule chooses among the finished ones; None before today's has finished."""
    today = RECIPES[0].name
    finished = {name: recipe for name, recipe in recipes.items() if "median" in recipe}
    if today not in finished:
        return None

    def gain(name: str) -> float:
        return float(finished[name]["families"]["PCA"]["gain"])

    allowed = [name for name in finished if gain(name) >= gain(today)]
    largest = max(finished[name]["median"] for name in allowed)
    near = [name for name in allowed if finished[name]["median"] >= largest - TIE]
    return min(near, key=lambda name: (finished[name]["minutes"]["all"], -finished[name]["median"]))


def table(report: dict[str, Any]) -> str:
    """The recipes in the order of the list, each with its gains and its minutes."""
    lines = []
    for name, recipe in report["recipes"].items():
        gains = [recipe.get("families", {}).get(family, {}).get("gain") for family in FAMILIES]
        lines.append([name, *gains, recipe.get("median"), *(recipe["minutes"][target] for target in LIMITS)])
    headers = ["recipe", *FAMILIES, "median", *(f"{target}, min" for target in LIMITS)]
    done = report["chosen"] is not None
    leading = report["chosen"] or report["leading"] or "none yet"
    foot = f"{'Chosen' if done else 'Leading so far'}: {leading}"
    return "\n".join([report["rule"], "", tabulate(lines, headers, floatfmt=".1f", missingval=""), "", foot])


def plan(project: Project, clock: Clock, minutes: dict[str, dict[str, float]]) -> str:
    """What each recipe would take of one core, from nothing and without what an earlier one has computed."""
    seen: set[str] = set()
    lines, total = [], 0.0
    for recipe in RECIPES:
        study, graph = project.study(recipe), project.graph(recipe)
        keys = {digest([job.place, job.lineage]): job for job in graph.all_jobs_for(FAMILIES.values())}
        own = clock.seconds(study, [job for key, job in keys.items() if key not in seen]) / 60
        seen |= set(keys)
        total += own
        lines.append([recipe.name, *minutes[recipe.name].values(), round(own, 1), recipe.why])
    headers = ["recipe", *(f"{target}, min" for target in LIMITS), "here, min", "why"]
    return f"{tabulate(lines, headers)}\n\nAll of them take {total / 60:.1f} hours of one core."


def main() -> None:
    """Runs the recipes that have not finished, and writes and prints what came out after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where they run, outside the repository")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--base", default="laptop", help="the scale that the recipes change")
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help="run only these recipes of the list"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/recipes.json")
    parser.add_argument("--plan", action="store_true", help="only say what they take")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if any((place / "pyproject.toml").exists() for place in (folder, *folder.parents)):
        parser.error(f"--folder: {folder} lies in a repository; give one outside")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("recipes: stopped"))  # with the Snakemake that it waits for
    project = Project(folder, arguments.base)
    laptop = Study.load(ROOT, {"scale": "laptop", "seeds": [0]})
    clocks = {target: Clock(laptop, target) for target in LIMITS}
    minutes = {
        recipe.name: {target: round(clock.minutes(project.whole(recipe)), 1) for target, clock in clocks.items()}
        for recipe in RECIPES
    }
    if arguments.plan:
        print(plan(project, clocks["main"], minutes))
        return
    earlier = json.loads(arguments.out.read_text())["recipes"] if arguments.out.exists() else {}
    finished = {
        recipe.name: earlier[recipe.name]
        for recipe in RECIPES
        if earlier.get(recipe.name, {}).get("identity") == project.identity(recipe)
    }
    write(arguments.out, project, minutes, finished)
    for recipe in RECIPES:
        if recipe.name in finished or recipe.name not in arguments.only:
            continue
        print(f"recipe {recipe.name}", flush=True)
        try:
            project.run(recipe, arguments.cores)
        except subprocess.CalledProcessError as error:
            sys.exit(f"recipe {recipe.name}: Snakemake ended with status {error.returncode}; see its messages above")
        finished[recipe.name] = project.results(recipe)
        write(arguments.out, project, minutes, finished)


def write(
    out: Path, project: Project, minutes: dict[str, dict[str, float]], finished: dict[str, dict[str, Any]]
) -> None:
    """Writes the list with the results of the finished recipes, and prints it as a table."""
    recipes = {
        recipe.name: {"why": recipe.why, "changes": recipe.changes, "minutes": minutes[recipe.name]}
        | finished.get(recipe.name, {})
        for recipe in RECIPES
    }
    leading = best(recipes)
    report = {
        "rule": RULE,
        "base": project.base,
        "limits": LIMITS,
        "recipes": recipes,
        "leading": leading,
        "chosen": leading if len(finished) == len(RECIPES) else None,
    }
    write_text(out, json.dumps(report, indent=1, sort_keys=True) + "\n")
    print(table(report), flush=True)


if __name__ == "__main__":
    main()
