"""The command line: `ldae <stage> ...`, what the rules call and what a person pastes into a terminal."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ldae import spec
from ldae.process import die_with_driver, process_seconds
from ldae.progress import log

MODULES = {"probe_pixels": "probe"}  # of stages that share a module with another


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage above it."""

    def error(self, message: str) -> Any:
        """Ends the process with status 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class _Help(argparse.HelpFormatter):
    """Room for the names of all stages in the left column."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    root = OneLineParser(
        prog="ldae",
        description="The deconstruction of diffusion models for self-supervised learning. Each command is one stage of "
        "the graph: it reads the folders of earlier stages and writes its own. Snakemake chains them; `snakemake -p` "
        "prints every command, ready to be pasted into a terminal.",
        epilog="Examples and the whole study: see README.md. Options of a stage: ldae <stage> --help.",
        formatter_class=_Help,
    )
    commands = root.add_subparsers(title="stages", metavar="<stage>", required=True)

    dataset = {"dataset": "the prepared images"}
    tokenizer = dataset | {"tokenizer": "the fitted tokenizer"}
    _stage(commands, "prepare", "prepare the images of a data set", spec.DatasetStage, {}, threads="worker processes")
    _stage(commands, "fit-tokenizer", "fit a tokenizer to training patches", spec.TokenizerStage, dataset)
    pretrain = _stage(
        commands,
        "pretrain",
        "train one row, or go on where its last attempt stopped",
        spec.PretrainStage,
        tokenizer | {"resume": "where checkpoints outlive a failed attempt"},
    )
    pretrain.add_argument("--row", required=True, metavar="NAME", help="the row's name, for messages")
    pretrain.add_argument("--seed", type=int, default=0, metavar="K", help="of weights, order and noise (default 0)")
    pretrain.add_argument("--micro-batch", type=int, metavar="N", help="images a forward pass, at most (default: all)")
    pretrain.add_argument(
        "--checkpoint-seconds", type=float, default=300.0, metavar="S", help="between checkpoints (default 300)"
    )
    _stage(
        commands,
        "probe",
        "linear probe and k-NN of a trained row and of its random features",
        spec.ProbeStage,
        tokenizer | {"model": "the trained row"},
    )
    _stage(commands, "probe-pixels", "the same probe on raw pixels, without a network", spec.ProbeStage, dataset)

    for name in ("table", "figure"):
        view = commands.add_parser(name, help=f"write a {name} from probe results", description=f"Writes a {name}.")
        view.set_defaults(action=_write_view, view=name)
        view.add_argument("--definition", type=json.loads, required=True, metavar="JSON", help="its rows and labels")
        view.add_argument("--dataset", type=Path, required=True, metavar="DIR", help="the prepared images")
        view.add_argument("--pixels", type=Path, required=True, metavar="DIR", help="the probe of raw pixels")
        view.add_argument("--probes", type=Path, nargs="+", required=True, metavar="DIR", help="the rows' probes")
        view.add_argument("--out", type=Path, required=True, metavar="PATH", help="path of the files, without ending")

    cost = commands.add_parser("cost", help="add up what the runs have cost", description="Adds up seconds and memory.")
    cost.set_defaults(action=_write_cost)
    cost.add_argument("--results", type=Path, nargs="+", required=True, metavar="JSON", help="result files")
    cost.add_argument("--out", type=Path, required=True, metavar="PATH", help="path of the files, without ending")
    return root


def _stage(
    commands: Any, name: str, text: str, model: type[spec.Part], inputs: dict[str, str], *, threads: str = "CPU threads"
) -> argparse.ArgumentParser:
    """A command that runs the function of its name, with the folders that it reads.

    Args:
        commands: where to add it.
        name: of the command; the stage's function has it, with underscores.
        text: what it does.
        model: of its `--spec`.
        inputs: the folders that it reads, and what each of them is.
        threads: what `--threads` counts.
    """
    stage: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", formatter_class=_Help
    )
    stage.set_defaults(action=_run_stage, spec_model=model, function=name.replace("-", "_"))
    stage.add_argument("--spec", required=True, metavar="JSON", help="what the stage reads of the row and of the scale")
    stage.add_argument("--revision", type=int, default=1, metavar="N", help="of the stage's code (default 1)")
    for folder, what in inputs.items():
        stage.add_argument(f"--{folder}", type=Path, required=True, metavar="DIR", help=what)
    stage.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    stage.add_argument("--threads", type=int, default=1, metavar="N", help=f"{threads} (default 1)")
    return stage


def _run_stage(arguments: argparse.Namespace) -> float:
    """Runs a stage's function with what the command line says; returns when its imports were done."""
    options = vars(arguments)
    name, spec_model, threads = (options.pop(key) for key in ("function", "spec_model", "threads"))
    stage = spec_model.model_validate_json(options.pop("spec"))
    del options["action"]
    if name != "prepare":
        _limit_threads(threads)
    module = importlib.import_module(f"ldae.{MODULES.get(name, name)}")
    imported = process_seconds()
    options |= {"workers": threads} if name == "prepare" else {"import_seconds": imported}
    getattr(module, name)(stage, **options)
    return imported


def _write_view(arguments: argparse.Namespace) -> float:
    """Writes a table or a figure; returns when the imports were done."""
    from ldae.results import collect

    module = importlib.import_module(f"ldae.{arguments.view}s")
    imported = process_seconds()
    shown = arguments.definition
    results = collect(shown, dataset=arguments.dataset, probes=arguments.probes, pixels=arguments.pixels)
    getattr(module, f"write_{arguments.view}")(shown, results, out=arguments.out)
    return imported


def _write_cost(arguments: argparse.Namespace) -> float:
    """Adds up the cost; returns when the imports were done."""
    from ldae.tables import write_cost

    imported = process_seconds()
    write_cost(arguments.results, out=arguments.out)
    return imported


def _limit_threads(threads: int) -> None:
    """Sets the number of CPU threads, before any library with a pool of its own is imported."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def main() -> None:
    """Runs one stage; a mistake or a missing file is one line on standard error and a status other than zero."""
    die_with_driver()
    arguments = parser().parse_args()
    try:
        imported = arguments.action(arguments)
        log(f"done in {process_seconds():.1f} s, of which imports took {imported:.1f} s")
    except ValidationError as error:
        mistake = error.errors()[0]
        sys.exit(f"ldae: --spec: {'.'.join(map(str, mistake['loc']))}: {mistake['msg']}, found {mistake['input']!r}")
    except (ValueError, OSError) as error:
        sys.exit(f"ldae: {error}")
    except KeyboardInterrupt:
        sys.exit("ldae: interrupted")


if __name__ == "__main__":
    main()
