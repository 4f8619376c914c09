"""`pgstore bucket`: the files of a bucket from a shell, at each provider's emulator."""

from __future__ import annotations

import os

import pytest
import typer

from pgstore.cli import bucket as bucket_commands
from tests.fixtures.buckets import S3_VALUES

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"  # no command but one with --secret asks a database


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=["azure", "gcs", "s3"])
def each(request, monkeypatch, commands):
    """Runs a verb on a new bucket of each provider; paths become URLs."""
    from tests.fixtures.buckets import PLACES

    return Bucket(PLACES[request.param](request), monkeypatch, commands.on(NOWHERE))


@pytest.fixture
def bucket(s3_place, monkeypatch, commands):
    """Runs a verb on a new bucket of S3."""
    return Bucket(s3_place, monkeypatch, commands.on(NOWHERE))


class Bucket:
    def __init__(self, place, monkeypatch, commands):
        location = place.location
        self.place = place
        self.commands = commands
        self.url = location.shown
        self.rest = ["--endpoint-url", location.endpoint_url]
        if location.provider == "s3":
            for name, value in S3_VALUES.items():
                monkeypatch.setenv(name, value)
            monkeypatch.setenv("AWS_REGION", "us-east-1")
        elif location.provider == "azure":
            monkeypatch.setenv("AZURE_STORAGE_KEY", place.values["AZURE_STORAGE_KEY"])

    def at(self, path):
        return f"{self.url}/{path}"

    def done(self, verb, *arguments, **rest):
        return self.commands.done("bucket", verb, *arguments, *self.rest, **rest)

    def fails(self, verb, *arguments, code=1, **rest):
        return self.commands.fails("bucket", verb, *arguments, *self.rest, code=code, **rest)

    def binary(self, verb, *arguments, **rest):
        return self.commands.in_bytes("bucket", verb, *arguments, *self.rest, **rest)


def test_every_verb_has_help_with_an_example(commands):
    for verb in typer.main.get_group(bucket_commands.app).commands:
        shown = commands.on(NOWHERE).done("bucket", verb, "--help")
        assert f"pgstore bucket {verb} " in shown.partition("Example:")[2]


def test_a_file_goes_in_and_comes_out(bucket, folder):
    data = os.urandom(200_000)
    (folder / "a.bin").write_bytes(data)

    bucket.done("put", "a.bin", bucket.at("d/"))
    bucket.binary("put", "-", bucket.at("d/b.bin"), stdin=data)
    bucket.done("get", bucket.at("d"), "here")

    assert bucket.binary("get", bucket.at("d/a.bin"), "-") == (0, data, "")
    assert bucket.binary("cat", bucket.at("d/b.bin"), bucket.at("d/a.bin")) == (0, data + data, "")
    assert bucket.done("ls", bucket.url) == "d\n"
    assert bucket.done("ls", bucket.at("d")) == "d/a.bin\nd/b.bin\n"
    assert sorted(os.listdir("here")) == ["a.bin", "b.bin"]
    assert (folder / "here/a.bin").read_bytes() == data
