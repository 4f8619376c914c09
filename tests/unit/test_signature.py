"""Commands with another signature than that of their function: they are called with what it expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from pgstore.cli.signature import with_fixed, with_options_of


@dataclass
class Access:
    region: Annotated[str, typer.Option()]
    anonymous: Annotated[bool, typer.Option("--anonymous")] = False


def output_of(command, *arguments):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, arguments).output.strip()


def test_the_options_of_a_group_arrive_as_one_value():
    """
    Each with its own default; one without a default stands behind those that have one.
    """

    def show(access: Access, path: Annotated[str, typer.Argument()] = "/") -> None:
        print(path, access)

    command = with_options_of(Access, show, into="access")

    assert output_of(command, "--region", "eu", "--anonymous") == "/ Access(region='eu', anonymous=True)"
    assert output_of(command, "--region", "eu", "/a") == "/a Access(region='eu', anonymous=False)"


def test_a_fixed_option_has_its_value_and_cannot_be_given():
    """
    A NetworkFileSystem has no versions to look at.
    """

    def show(path: Annotated[str, typer.Argument()], at: Annotated[int | None, typer.Option()] = None) -> None:
        print(path, at)

    assert output_of(with_fixed(show, at=7), "/a") == "/a 7"
    assert "No such option" in output_of(with_fixed(show, at=7), "/a", "--at", "3")
