"""Whatever the arguments of a command are, it ends with one line. Those of all commands are tried, also of ones to come."""

from __future__ import annotations

import os

import pytest

from pgstore import cli

# They stay, or do something that has little to do with their arguments.
LEFT_OUT = {"demo", "mount", "psql", "run", "server start", "server stop", "top", "worker"}

STRANGE = {
    "empty": "",
    "no UTF-8": os.fsdecode(b"a\xff"),
    "NUL": "a\0b",
    "control characters": "a\nb\x1b[2J",
    "more than an argument can have": "x" * 200_000,
}


def commands_of(command, path=()):
    """All commands with their names, groups aside."""
    command = getattr(command, "_command", command)
    inner = getattr(command, "commands", None)
    if inner:
        for name, each in inner.items():
            yield from commands_of(each, (*path, name))
    elif " ".join(path) not in LEFT_OUT and path[-1] != "watch":
        yield path, command


def calls_of(strange):
    """Each command with *strange* as all its arguments, and as each of its options."""
    for path, command in commands_of(cli._command()):
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        given = [strange] * sum(each.required for each in arguments)
        yield [*path, "--", *given]
        for option in command.params:
            if option.param_type_name == "option" and not option.is_flag and option.name != "timeout":
                yield [*path, option.opts[0], strange, "--", *["absent" for _ in given]]


@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE.keys())
def test_a_strange_argument_is_one_line(commands, strange, tmp_path, monkeypatch):
    """
    Scripts pass on what others have given them.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGSTORE_SERVER_DIR", str(tmp_path / "server"))
    wrong = []

    for arguments in calls_of(strange):
        code, out, err = commands(*arguments, stdin=None)
        is_told = err.startswith("error: ") and err.count("\n") == 1 and len(err) < 5000 and "\x1b" not in err
        # The last of these tells of what other tests have left in the database that they share.
        is_answer = arguments[:2] in (["dict", "contains"], ["server", "status"], ["check", "--"])
        if code not in (0, 1, 2, 3) or "mistake in pgstore" in err or not (code == 0 or is_told or is_answer):
            wrong.append((arguments[:2], code, out[:100], err[:200]))

    assert wrong == []
