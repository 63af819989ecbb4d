"""The argument parser: commands in groups, help with examples, mistakes in one line, tab completion; no pydantic.

Commands import what they need when they run, so that help and completion are fast.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldae.study.study import Study

GROUP = "your shell"  # of the command `completion`
SHELLS = ("bash", "zsh", "fish")


def nearest(word: str, known: Iterable[str]) -> str:
    """A did-you-mean hint for an unknown word; empty if no known word is close."""
    from ldae.study.checking import nearest  # imports pydantic, so only after a mistake

    return nearest(word, known)


class Help(argparse.HelpFormatter):
    """A wider left column for the names of commands; indented lines keep their line breaks."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()
        return "\n".join(
            f"{indent}{line}" if line.startswith(" ") else super(Help, self)._fill_text(line, width, indent)
            for line in lines
        )


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line with a did-you-mean hint, without the usage."""

    def error(self, message: str) -> Any:
        """Ends the process with status 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but each command reports its own unknown options, so that the hint knows its valid ones."""
        namespace, unknown = super().parse_known_args(args, namespace)
        for word in unknown:
            if word.startswith("-"):
                option = word.partition("=")[0]
                self.error(f"unknown option {option!r}{nearest(option, self._option_string_actions)}")
        return namespace, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Rejects a word that is not among an argument's choices, with a did-you-mean hint."""
        if action.choices is not None and value not in action.choices:
            kind = "command" if isinstance(action, argparse._SubParsersAction) else "value"
            raise argparse.ArgumentError(
                None if kind == "command" else action, f"unknown {kind} {value!r}{nearest(value, action.choices)}"
            )


class Version(argparse.Action):
    """Prints the installed version; it is looked up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Ends the process with status 0."""
        from importlib.metadata import version

        print(f"ldae {version('ldae')}")
        parser.exit()


class Root(Parser):
    """The top-level parser; its help lists the commands in groups, in the order in which they were added."""

    def __init__(self, prog: str, *, description: str, epilog: str) -> None:
        super().__init__(prog, description=description, epilog=epilog, formatter_class=Help)
        self.add_argument("--version", action=Version, dest=argparse.SUPPRESS, help="print the version and exit")
        self.groups: dict[str, list[argparse.Action]] = {}
        self._commands = self.add_subparsers(metavar="<command>", required=True, parser_class=Parser)

    def command(
        self, group: str, name: str, text: str, *, about: str = "", examples: str = "", **defaults: Any
    ) -> Parser:
        """Adds a command to a group of the list of commands, in which `text` says what it does.

        Its own help has further sentences (`about`) and `examples`, command lines with a comment each. `defaults` are
        values that no option sets, such as the `action` that runs the command.
        """
        self.groups.setdefault(group, []).append(argparse.Action([], name, metavar=name, help=text))
        command: Parser = self._commands.add_parser(
            name,
            description=f"{text[0].upper()}{text[1:]}." + (f" {about}" if about else ""),
            epilog=f"Examples:\n{examples}" if examples else None,
            formatter_class=Help,
        )
        command.set_defaults(command=name, **defaults)
        return command

    def format_help(self) -> str:
        """The list of commands in their groups, without the commands' options."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, [])
        formatter.add_text(self.description)
        for title, commands in self.groups.items():
            formatter.start_section(title)
            formatter.add_arguments(commands)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()


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
    from ldae.study.scale_file import scale_names
    from ldae.study.study import project_of

    try:
        return scale_names(project_of(Path.cwd()) / "scales")
    except ValueError:
        return []
