"""The examples that the help of each command shows, and those of the documents, are calls that the command line takes."""

from __future__ import annotations

import contextlib
import re
import shlex
from typing import Any

import pytest
import typer

from pgstore import cli
from tests.fixtures.documents import ROOT, blocks_of

CALL = re.compile(r"(?<![\w./-])(?<!-n )pgstore(?= (?!import))(?P<arguments>(?:'[^']*'|\"[^\"]*\"|[^|&<>;)\"'#\n])*)")


def contexts(command: Any, name: str, arguments: list[str], parent: Any = None) -> list[Any]:
    """The contexts into which *arguments* lead, as click makes them before it calls anything; the last is that of the command."""
    made = command.make_context(name, list(arguments), parent=parent)
    rest = [*getattr(made, "_protected_args", []), *made.args]
    if not hasattr(made.command, "resolve_command") or not rest:
        return [made]
    verb, found, rest = made.command.resolve_command(made, rest)
    return [made, *contexts(found, verb, rest, made)]


def commands(command: Any, path: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Every command below *command* with its help."""
    made = command.make_context(path[-1] if path else "pgstore", [], resilient_parsing=True)
    found = [(" ".join(["pgstore", *path]), made.command.help or "")]
    for name in made.command.list_commands(made) if hasattr(made.command, "list_commands") else []:
        found += commands(made.command.get_command(made, name), (*path, name))
    return found


HELP = {path: re.findall(r"(?ms)^ *Example:\n(.*)", text) for path, text in commands(cli._command())}
SHOWN = [(path, call["arguments"]) for path, (text,) in HELP.items() for call in CALL.finditer(text)]


@pytest.mark.parametrize(("path", "arguments"), SHOWN, ids=[f"{path}: {arguments}" for path, arguments in SHOWN])
def test_an_example_in_the_help_is_a_call_that_is_taken(path, arguments):
    """
    An option that was renamed leaves its example behind.
    """
    made = contexts(cli._command(), "pgstore", shlex.split(arguments))  # or raises a usage error

    assert " ".join(context.info_name for context in made) in HELP


DOCUMENTS = ["README.md", "sql/README.md", "CHANGELOG.md", "examples/README.md"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_command_in_a_block_of_a_document_is_a_call_that_is_taken(document):
    """
    As in the help.
    """
    for block in blocks_of(document, "sh"):
        for call in CALL.finditer(block.text):
            with contextlib.suppress(typer.Exit):  # --version ends here
                made = contexts(cli._command(), "pgstore", shlex.split(call["arguments"]))  # or raises a usage error

                assert " ".join(context.info_name for context in made) in HELP, call[0]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_command_in_the_text_of_a_document_is_one_that_there_is(document):
    """
    The name of a command, and the verb of a noun.
    """
    named = re.findall(r"`pgstore ([a-z]+)(?: ([a-z]+))?\b[^`]*`", (ROOT / document).read_text())
    everything = {path.removeprefix("pgstore ") for path in HELP}
    nouns = {path.partition(" ")[0] for path in everything if " " in path}

    for noun, verb in named:
        assert noun in everything
        assert noun not in nouns or not verb or f"{noun} {verb}" in everything


@pytest.mark.parametrize("noun", ["", *sorted({path.split()[1] for path in HELP if path.count(" ") == 2})])
def test_the_list_of_commands_says_each_sentence_to_its_end(noun, monkeypatch):
    """
    "Watch what goes on: queues, calls, dicts, files, sessions,..." leaves out the half of it.
    """
    monkeypatch.setenv("COLUMNS", "80")
    context = contexts(cli._command(), "pgstore", [noun] if noun else [])[-1]

    shown = context.command.get_help(context)

    assert "Commands:" in shown
    assert "..." not in shown.partition("Commands:")[2]
    assert max(map(len, shown.splitlines())) <= 80
