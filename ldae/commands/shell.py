"""Tab completion of commands, options, rows, targets and scales in the user's shell."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldae.commands.parsing import Root

if TYPE_CHECKING:
    from ldae.study.study import Study

GROUP = "your shell"
SHELLS = ("bash", "zsh", "fish")
Completer = Callable[..., Iterable[str]]


def add(root: Root) -> None:
    """Adds the command `completion`."""
    command = root.command(
        GROUP,
        "completion",
        "print the script that lets your shell complete commands, options, rows, targets and scales",
        examples='  eval "$(ldae completion bash)"     # in ~/.bashrc; for zsh, `zsh` in ~/.zshrc\n'
        "  ldae completion fish | source      # in ~/.config/fish/config.fish",
    )
    command.set_defaults(action=_print_script)
    command.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")


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

        overrides = {key: getattr(parsed_args, key, None) for key in ("scale", "study")}
        try:
            return list(
                names(Study.load(project_of(Path.cwd()), {key: value for key, value in overrides.items() if value}))
            )
        except ValueError:  # no study here, or one with a mistake, which the command will report
            return []

    action.completer = complete


def scales(**_: object) -> list[str]:
    """The names of the scales of the study in this folder or above it."""
    from ldae.study.study import project_of

    try:
        return sorted(path.stem for path in (project_of(Path.cwd()) / "scales").glob("*.yaml"))
    except ValueError:
        return []


def _print_script(arguments: argparse.Namespace) -> None:
    """Prints the shell's script."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["ldae"], shell=arguments.shell))
