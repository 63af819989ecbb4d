"""The command line: `ldae <stage> ...`, what the rules call and what a person pastes into a terminal."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ldae import spec
from ldae.process import die_with_driver, process_seconds


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

    prepare = _stage(commands, "prepare", _prepare, "prepare the images of a data set", seeded=False)
    prepare.add_argument("--threads", type=int, default=1, metavar="N", help="worker processes (default 1)")

    tokenizer = _stage(commands, "fit-tokenizer", _fit_tokenizer, "fit a tokenizer to training patches")
    tokenizer.add_argument("--dataset", type=Path, required=True, metavar="DIR", help="the prepared images")

    pretrain = _stage(commands, "pretrain", _pretrain, "train one row, or go on where its last attempt stopped")
    pretrain.add_argument("--row", required=True, metavar="NAME", help="the row's name, for messages")
    pretrain.add_argument("--seed", type=int, default=0, metavar="K", help="of weights, order and noise (default 0)")
    pretrain.add_argument("--dataset", type=Path, required=True, metavar="DIR", help="the prepared images")
    pretrain.add_argument("--tokenizer", type=Path, required=True, metavar="DIR", help="the fitted tokenizer")
    pretrain.add_argument(
        "--resume", type=Path, required=True, metavar="DIR", help="where checkpoints outlive a failed attempt"
    )
    pretrain.add_argument("--micro-batch", type=int, metavar="N", help="images a forward pass, at most (default: all)")
    pretrain.add_argument(
        "--checkpoint-seconds", type=float, default=300.0, metavar="S", help="between checkpoints (default 300)"
    )

    probe = _stage(commands, "probe", _probe, "linear probe and k-NN of a trained row and of its random features")
    probe.add_argument("--dataset", type=Path, required=True, metavar="DIR", help="the prepared images")
    probe.add_argument("--tokenizer", type=Path, required=True, metavar="DIR", help="the fitted tokenizer")
    probe.add_argument("--model", type=Path, required=True, metavar="DIR", help="the trained row")

    pixels = _stage(commands, "probe-pixels", _probe_pixels, "the same probe on raw pixels, without a network")
    pixels.add_argument("--dataset", type=Path, required=True, metavar="DIR", help="the prepared images")

    for name, action in (("table", _table), ("figure", _figure)):
        view = commands.add_parser(name, help=f"write a {name} from probe results", description=f"Writes a {name}.")
        view.set_defaults(action=action)
        view.add_argument("--definition", type=json.loads, required=True, metavar="JSON", help="its rows and labels")
        view.add_argument("--dataset", type=Path, required=True, metavar="DIR", help="the prepared images")
        view.add_argument("--pixels", type=Path, required=True, metavar="DIR", help="the probe of raw pixels")
        view.add_argument("--probes", type=Path, nargs="+", required=True, metavar="DIR", help="the rows' probes")
        view.add_argument("--out", type=Path, required=True, metavar="PATH", help="path of the files, without ending")

    cost = commands.add_parser("cost", help="add up what the runs have cost", description="Adds up seconds and memory.")
    cost.set_defaults(action=_cost)
    cost.add_argument("--results", type=Path, nargs="+", required=True, metavar="JSON", help="result files")
    cost.add_argument("--out", type=Path, required=True, metavar="PATH", help="path of the files, without ending")
    return root


def _stage(
    commands: Any, name: str, action: Callable[[argparse.Namespace], None], text: str, seeded: bool = True
) -> argparse.ArgumentParser:
    """A command with what all stages share."""
    stage: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", formatter_class=_Help
    )
    stage.set_defaults(action=action)
    stage.add_argument("--spec", required=True, metavar="JSON", help="what the stage reads of the row and of the scale")
    stage.add_argument("--revision", type=int, default=1, metavar="N", help="of the stage's code (default 1)")
    stage.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    if seeded:
        stage.add_argument(
            "--threads", type=int, default=1, metavar="N", help="CPU threads to compute with (default 1)"
        )
    return stage


def _prepare(arguments: argparse.Namespace) -> None:
    from ldae.prepare import prepare
    from ldae.progress import log

    stage = spec.DatasetStage.model_validate_json(arguments.spec)
    prepare(stage, arguments.out, revision=arguments.revision, workers=arguments.threads, log=log)


def _fit_tokenizer(arguments: argparse.Namespace) -> None:
    stage = spec.TokenizerStage.model_validate_json(arguments.spec)
    _limit_threads(arguments.threads)
    from ldae.fit_tokenizer import fit_tokenizer

    fit_tokenizer(
        stage,
        revision=arguments.revision,
        dataset=arguments.dataset,
        out=arguments.out,
        import_seconds=process_seconds(),
    )


def _pretrain(arguments: argparse.Namespace) -> None:
    stage = spec.PretrainStage.model_validate_json(arguments.spec)
    _limit_threads(arguments.threads)
    from ldae.pretrain import pretrain

    pretrain(
        stage,
        row=arguments.row,
        seed=arguments.seed,
        revision=arguments.revision,
        dataset=arguments.dataset,
        tokenizer=arguments.tokenizer,
        resume=arguments.resume,
        out=arguments.out,
        micro_batch=arguments.micro_batch,
        checkpoint_seconds=arguments.checkpoint_seconds,
        import_seconds=process_seconds(),
    )


def _probe(arguments: argparse.Namespace) -> None:
    stage = spec.ProbeStage.model_validate_json(arguments.spec)
    _limit_threads(arguments.threads)
    from ldae.probe import probe

    probe(
        stage,
        revision=arguments.revision,
        dataset=arguments.dataset,
        tokenizer=arguments.tokenizer,
        model=arguments.model,
        out=arguments.out,
        import_seconds=process_seconds(),
    )


def _probe_pixels(arguments: argparse.Namespace) -> None:
    stage = spec.ProbeStage.model_validate_json(arguments.spec)
    _limit_threads(arguments.threads)
    from ldae.probe import probe_pixels

    probe_pixels(
        stage,
        revision=arguments.revision,
        dataset=arguments.dataset,
        out=arguments.out,
        import_seconds=process_seconds(),
    )


def _table(arguments: argparse.Namespace) -> None:
    from ldae.results import collect
    from ldae.tables import write_table

    write_table(
        arguments.definition,
        collect(arguments.definition, dataset=arguments.dataset, probes=arguments.probes, pixels=arguments.pixels),
        out=arguments.out,
    )


def _figure(arguments: argparse.Namespace) -> None:
    from ldae.figures import draw
    from ldae.results import collect

    draw(
        arguments.definition,
        collect(arguments.definition, dataset=arguments.dataset, probes=arguments.probes, pixels=arguments.pixels),
        out=arguments.out,
    )


def _cost(arguments: argparse.Namespace) -> None:
    from ldae.tables import write_cost

    write_cost(arguments.results, out=arguments.out)


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
        arguments.action(arguments)
    except ValidationError as error:
        mistake = error.errors()[0]
        sys.exit(f"ldae: --spec: {'.'.join(map(str, mistake['loc']))}: {mistake['msg']}, found {mistake['input']!r}")
    except (ValueError, OSError) as error:
        sys.exit(f"ldae: {error}")
    except KeyboardInterrupt:
        sys.exit("ldae: interrupted")


if __name__ == "__main__":
    main()
