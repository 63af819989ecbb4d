"""Options that choose a study, and tab completion of its rows, targets and scales in the user's shell."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldae.commands.parsing import Parser, Root

if TYPE_CHECKING:
    from ldae.study.study import Study

GROUP = "your shell"
SHELLS = ("bash", "zsh", "fish")


def add(root: Root) -> None:
    """Adds the command `completion`."""
    command = root.command(
        GROUP,
        "completion",
        "print the script that lets your shell complete commands, options, rows, targets and scales",
        examples='  eval "$(ldae completion bash)"     # in ~/.bashrc; for zsh, `zsh` in ~/.zshrc\n'
        "  ldae completion fish | source      # in ~/.config/fish/config.fish",
        action=_print_script,
    )
    command.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")


def _print_script(arguments: argparse.Namespace) -> None:
    from argcomplete.shell_integration import shellcode

    print(shellcode(["ldae"], shell=arguments.shell))


def add_scale_and_study(command: Parser) -> None:
    """Adds the options that choose a study's file and its scale."""
    scale: Any = command.add_argument(
        "--scale", metavar="NAME", help="a scale, by the name of its file in scales/ (default: the study's)"
    )
    scale.completer = _scales
    command.add_argument("--study", metavar="FILE", help="a study's file (default: config.yaml)")


def overrides(arguments: argparse.Namespace) -> dict[str, str]:
    """The study's settings that the command line overrides."""
    given = {key: getattr(arguments, key, None) for key in ("scale", "seeds", "study")}
    return {key: value for key, value in given.items() if value is not None}


def complete(root: Root) -> None:
    """Answers a completion request of the shell and ends the process; does nothing if there is none."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    argcomplete.autocomplete(root, always_complete_options=False)


def completed(action: Any, names: Callable[[Study], Iterable[str]]) -> None:
    """Completes an argument with names from the study in this folder."""

    def complete(*, parsed_args: argparse.Namespace, **_: object) -> list[str]:
        from ldae.study.study import Study, project_of

        try:
            return list(names(Study.load(project_of(Path.cwd()), overrides(parsed_args))))
        except ValueError:  # no study here, or one with a mistake, which the command will report
            return []

    action.completer = complete


def rows(study: Study) -> list[str]:
    """The names of the rows of a study."""
    return list(study.variants)


def _scales(**_: object) -> list[str]:
    from ldae.study.study import project_of

    try:
        return sorted(path.stem for path in (project_of(Path.cwd()) / "scales").glob("*.yaml"))
    except ValueError:
        return []
