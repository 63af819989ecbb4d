"""Commands that carry results between machines: `ldae pack` and `ldae merge`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ldae.commands.parsing import Root, add_scale_and_study
from ldae.commands.study import GROUP, load_study


def add(root: Root) -> None:
    """Adds these commands."""
    pack = root.command(
        GROUP,
        "pack",
        "write the results of one seed into one small file, for another machine",
        about="The file has the records, which images were classified correctly, and the histories; it has no weights "
        "and no images. Results that are not current are left out.",
        examples="  ldae pack results/laptop --seed 3             # writes results/laptop/packs/seed3.zip\n"
        "  ldae pack results/gpu --seed 0 --out gpu0.zip",
        action=_pack,
    )
    pack.add_argument("results", type=Path, metavar="RESULTS", help="the results folder of a scale")
    pack.add_argument("--seed", type=int, required=True, metavar="K", help="the seed")
    text = "the file to write (default: RESULTS/packs/seed<K>.zip)"
    pack.add_argument("--out", type=Path, metavar="FILE", help=text)
    merge = root.command(
        GROUP,
        "merge",
        "put packed results of other machines into the study's results folder",
        about="All files are checked before the first is written: against their checksums, against the study, and "
        "against the results that are there. A result that is there and differs is never replaced.",
        examples="  ldae merge seed3.zip seed4.zip\n  ldae merge packs/*.zip --scale gpu",
        action=_merge,
    )
    merge.add_argument("packs", type=Path, nargs="+", metavar="FILE", help="files that `ldae pack` has written")
    for command in (pack, merge):
        add_scale_and_study(command)


def _pack(arguments: argparse.Namespace) -> None:
    from ldae.overview.pack import pack, summary

    results = arguments.results.resolve()
    out = (arguments.out or arguments.results / f"packs/seed{arguments.seed}.zip").resolve()
    arguments.scale = arguments.scale or results.name
    study = load_study(arguments)
    if results != study.results.resolve():
        raise ValueError(
            f"{arguments.results}: is not the results folder of this study at scale {study.scale_name}, which is "
            f"{study.results}; --study and --scale choose another"
        )
    print(summary(pack(study, Path(), seed=arguments.seed, out=Path(os.path.relpath(out))), arguments.seed))


def _merge(arguments: argparse.Namespace) -> None:
    from ldae.overview.merge import merge, summary

    packs = [path.resolve() for path in arguments.packs]
    study = load_study(arguments)
    print(summary(merge(study, Path(), [Path(os.path.relpath(path)) for path in packs]), study))
