"""How a command line is read: commands in groups, help that keeps its examples, a mistake in one line; no pydantic.

What a stage needs is imported when it runs, so that help and completion come at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the known word that an unknown one was probably meant to be, or nothing."""
    from ldae.study.checking import nearest  # which imports pydantic, and a mistake can wait for that

    return nearest(word, known)


class Help(argparse.HelpFormatter):
    """Room for the names of all commands in the left column; a line that is indented stays as it is."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()
        return "\n".join(
            f"{indent}{line}" if line.startswith(" ") else super(Help, self)._fill_text(line, width, indent)
            for line in lines
        )


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest name, and without the usage above it."""

    def error(self, message: str) -> Any:
        """Ends the process with status 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but each command refuses what it does not know itself, where its options are known."""
        namespace, unknown = super().parse_known_args(args, namespace)
        for word in unknown:
            if word.startswith("-"):
                option = word.partition("=")[0]
                self.error(f"unknown option {option!r}{nearest(option, self._option_string_actions)}")
        return namespace, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Names a word that is none of an argument's choices, and the nearest that is."""
        if action.choices is not None and value not in action.choices:
            kind = "command" if isinstance(action, argparse._SubParsersAction) else "value"
            raise argparse.ArgumentError(
                None if kind == "command" else action, f"unknown {kind} {value!r}{nearest(value, action.choices)}"
            )


class Root(Parser):
    """The whole command line: its help lists the commands in groups, in the order in which they were added."""

    def __init__(self, prog: str, *, description: str, epilog: str) -> None:
        super().__init__(prog, description=description, epilog=epilog, formatter_class=Help)
        self.groups: dict[str, list[argparse.Action]] = {}
        self._commands = self.add_subparsers(metavar="<command>", required=True, parser_class=Parser)

    def command(self, group: str, name: str, text: str, *, about: str = "", examples: str = "") -> Parser:
        """Adds a command.

        Args:
            group: the heading below which help lists it.
            name: of the command.
            text: what it does, for that list.
            about: what else is to be said of it in its own help.
            examples: command lines, each followed by what it does after a `#`.
        """
        self.groups.setdefault(group, []).append(argparse.Action([], name, metavar=name, help=text))
        command: Parser = self._commands.add_parser(
            name,
            description=f"{text[0].upper()}{text[1:]}." + (f" {about}" if about else ""),
            epilog=f"Examples:\n{examples}" if examples else None,
            formatter_class=Help,
        )
        return command

    def format_help(self) -> str:
        """The commands in their groups; their own options are told by their own help."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, [])
        formatter.add_text(self.description)
        for title, commands in self.groups.items():
            formatter.start_section(title)
            formatter.add_arguments(commands)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()
