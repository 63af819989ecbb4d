"""The argument parser: commands in groups, help with examples, mistakes in one line; no pydantic.

Commands import what they need when they run, so that help and completion are fast.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any


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
        """Adds a command.

        Args:
            group: the heading in the list of commands.
            name: the command's name.
            text: what it does, for the list of commands.
            about: further sentences for the command's own help.
            examples: command lines, each with a comment.
            defaults: values of arguments that no option sets, such as the `action` that runs the command.
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
