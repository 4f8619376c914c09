"""`pgstore bucket`: the files of a bucket from a shell, at each provider's emulator."""

from __future__ import annotations

import json
import os
import sys

import pytest
import typer

from pgstore.cli import bucket as bucket_commands
from pgstore.cli import listing
from pgstore.mount import attach
from pgstore.types import FileEntry, FileEntryType
from tests.fixtures.buckets import PLACES, S3_VALUES
from tests.mount.conftest import skip_without_fuse

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"  # no command but one with --secret asks a database


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=["azure", "gcs", "s3"])
def each(request, monkeypatch, commands, tmp_path):
    """Runs a verb on a new bucket of each provider."""
    return Bucket(PLACES[request.param](request), monkeypatch, commands.on(NOWHERE), tmp_path)


@pytest.fixture
def bucket(s3_place, monkeypatch, commands, tmp_path):
    """Runs a verb on a new bucket of S3."""
    return Bucket(s3_place, monkeypatch, commands.on(NOWHERE), tmp_path)


class Bucket:
    """A bucket of an emulator, with the credentials where its SDK finds them; of Azure, in a secret that is a file."""

    def __init__(self, place, monkeypatch, commands, folder):
        location = place.location
        self.place = place
        self.commands = commands
        self.url = location.shown
        self.rest = ["--endpoint-url", str(location.endpoint_url)]
        if location.provider == "s3":
            for name, value in {**S3_VALUES, "AWS_REGION": "us-east-1"}.items():
                monkeypatch.setenv(name, value)
        elif location.provider == "azure":
            (folder / "secrets").mkdir()
            (folder / "secrets/azure.env").write_text(f"AZURE_STORAGE_KEY={place.values['AZURE_STORAGE_KEY']}\n")
            monkeypatch.setenv("PGSTORE_SECRETS_DIR", str(folder / "secrets"))
            self.rest += ["--secret", "azure"]
        else:
            self.rest += ["--anonymous"]

    def at(self, path):
        return f"{self.url}/{path}"

    def keys(self):
        return sorted(self.done("ls", self.url, "-r").splitlines())

    def done(self, verb, *arguments, **rest):
        return self.commands.done("bucket", verb, *arguments, *self.rest, **rest)

    def fails(self, verb, *arguments, code=1, **rest):
        return self.commands.fails("bucket", verb, *arguments, *self.rest, code=code, **rest)

    def in_bytes(self, verb, *arguments, **rest):
        return self.commands.in_bytes("bucket", verb, *arguments, *self.rest, **rest)

    def put(self, **files):
        for path, data in files.items():
            assert self.in_bytes("put", "-", self.at(path.replace("__", "/")), stdin=data) == (0, b"", "")


def test_every_verb_has_help_with_an_example(commands):
    for verb in typer.main.get_group(bucket_commands.app).commands:
        shown = commands.on(NOWHERE).done("bucket", verb, "--help")
        assert f"pgstore bucket {verb} " in shown.partition("Example:")[2]


def test_a_file_goes_in_about_and_out_again(each, folder):
    data = os.urandom(200_000)
    os.mkdir("d")
    (folder / "d/a.bin").write_bytes(data)

    each.done("put", "d", each.at(""))
    each.in_bytes("put", "-", each.at("d/b.bin"), stdin=data)
    each.done("cp", each.at("d"), each.at("e"), "-r")
    each.done("rm", each.at("d/b.bin"), "--yes")
    each.done("get", each.at("e"), "here")

    assert each.in_bytes("get", each.at("d/a.bin"), "-") == (0, data, "")
    assert each.in_bytes("cat", each.at("e/b.bin"), each.at("d/a.bin")) == (0, data + data, "")
    assert each.done("ls", each.url).splitlines() == ["d", "e"]
    assert each.done("ls", each.at("*/b*")) == "e/b.bin\n"
    assert each.keys() == ["d", "d/a.bin", "e", "e/a.bin", "e/b.bin"]
    assert sorted(os.listdir("here")) == ["a.bin", "b.bin"]
    assert (folder / "here/a.bin").read_bytes() == data
    records = json.loads(each.done("du", each.url, "--json"))
    assert [tuple(record.values()) for record in records] == [("d", 1, 200_000), ("e", 2, 400_000), ("/", 3, 600_000)]


def test_nothing_at_the_provider_is_replaced_without_force(each, folder):
    each.put(d__a=b"old")
    os.mkdir("d")
    for name in "ab":
        (folder / "d" / name).write_text("new")

    lines = [
        each.fails("put", "d/a", each.at("d/"), code=2),
        each.fails("put", "-", each.at("d/a"), code=2, stdin=b"new"),
        each.fails("put", "d", each.at(""), code=2),
    ]

    assert all("already" in line and "--force" in line for line in lines), lines
    assert each.keys() == ["d", "d/a"]
    assert each.in_bytes("cat", each.at("d/a")) == (0, b"old", "")

    each.done("put", "d", each.at(""), "--force")

    assert each.in_bytes("cat", each.at("d/a"), each.at("d/b")) == (0, b"newnew", "")


def test_no_local_file_is_replaced_without_force(bucket, folder):
    bucket.put(d__a=b"new")
    (folder / "a").write_text("old")

    assert "'./a' exists; --force" in bucket.fails("get", bucket.at("d/a"), code=2)
    assert (folder / "a").read_text() == "old"

    bucket.done("get", bucket.at("d/a"), "--force")

    assert (folder / "a").read_text() == "new"


def test_removing_asks_or_is_told_to(bucket):
    bucket.put(d__a=b"", d__b=b"")

    assert "give --yes" in bucket.fails("rm", bucket.at("d/a"))
    assert "-r removes it" in bucket.fails("rm", bucket.at("d"), "-y")
    assert "the root cannot be removed" in bucket.fails("rm", bucket.url, "-r", "-y", code=2)
    assert bucket.keys() == ["d", "d/a", "d/b"]

    bucket.done("rm", bucket.at("d"), "-r", "-y")

    assert bucket.keys() == []


def test_what_is_not_there_is_one_line(bucket, folder):
    bucket.put(d__a=b"")
    (folder / "file").write_text("")

    for arguments in (
        ["ls", "x"],
        ["get", "x"],
        ["get", "x", "-"],
        ["cat", "x"],
        ["du", "x"],
        ["rm", "x", "-y"],
        ["get", "x*"],
    ):
        verb, path, *rest = arguments
        assert "'x" in bucket.fails(verb, bucket.at(path), *rest)
    assert "'missing'" in bucket.fails("put", "missing", bucket.at(""))
    assert "no-such-bucket" in bucket.fails("ls", "s3://no-such-bucket-anywhere")
    assert "is a directory" in bucket.fails("put", "file", bucket.at("d"), "-f")
    assert "is in another bucket" in bucket.fails("cp", bucket.at("d/a"), "s3://other/b", code=2)
    assert os.listdir(folder) == ["file"]


@pytest.mark.parametrize(
    "url", ["d/a", "s3://", "s3:///x", "http://b/x", "az://account", "az:///c/x", "gcs://b", "s3:b"]
)
def test_what_is_no_url_of_a_bucket_is_told_the_forms(commands, url):
    assert "s3://BUCKET/PATH" in commands.on(NOWHERE).fails("bucket", "ls", url, code=2)


def test_arguments_that_cannot_work_are_refused(commands):
    fails = commands.on(NOWHERE).fails

    assert "for S3 alone" in fails("bucket", "ls", "gs://b", "--region", "x", code=2)
    assert "'minio:9000'" in fails("bucket", "ls", "s3://b", "--endpoint-url", "minio:9000", code=2)
    assert "--anonymous and --secret exclude" in fails("bucket", "ls", "s3://b", "--anonymous", "--secret", "x", code=2)
    assert "'..'" in fails("bucket", "get", "s3://b/a/../b", code=2)
    assert "is it running?" in fails("bucket", "ls", "s3://b", "--secret", "x")


def test_keys_are_taken_as_they_stand(bucket, s3, folder):
    """
    A URL here is the key with the bucket before it: nothing in it is decoded, and what could not be printed is quoted.
    """
    for key in ("a?b#c%20d", "tab\there", "[red]"):
        s3.put_object(Bucket=bucket.place.location.name, Key=key, Body=key.encode())

    assert sorted(bucket.done("ls", bucket.url).splitlines()) == ['"tab\\there"', "[red]", "a?b#c%20d"]
    assert {*bucket.in_bytes("ls", bucket.url, "-0")[1].split(b"\0")} == {b"tab\there", b"[red]", b"a?b#c%20d", b""}
    assert bucket.in_bytes("cat", bucket.at("a?b#c%20d"), bucket.at("[red]")) == (0, b"a?b#c%20d[red]", "")


def test_keys_that_are_no_paths_are_told_in_one_line(bucket, s3):
    for key in ("a//b", "c"):
        s3.put_object(Bucket=bucket.place.location.name, Key=key, Body=b"")

    code, out, err = bucket.commands("bucket", "ls", bucket.url, "-r", *bucket.rest)

    assert (code, out.splitlines()) == (0, ["a", "c"])
    assert err.startswith("warning: ")
    assert err.count("\n") == 1


def test_a_listing_is_printed_as_it_comes(capsysbinary, monkeypatch):
    """
    A bucket may have more keys than memory has room for: a page is printed before the next one is asked for.
    """
    monkeypatch.setattr(listing, "_PAGE_ENTRIES", 2)
    seen = []

    class Files:
        def exists(self, path):
            return True

        def iterdir(self, path, *, recursive):
            for number in range(6):
                seen.append(capsysbinary.readouterr().out.count(b"\n"))
                yield FileEntry(f"{number}", FileEntryType.FILE, 0, 0)

    listing.ls(Files(), "/", recursive=False, as_json=False, null=False)

    assert seen == [0, 0, 2, 0, 2, 0]


def test_a_missing_sdk_names_the_extra(commands, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("pgstore.buckets.s3")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "boto3", None)  # as if it were not installed

    assert "pip install 'pgstore[s3]'" in commands.on(NOWHERE).fails("bucket", "ls", "s3://never-opened-before")


def test_a_bucket_is_mounted_until_it_is_unmounted(bucket, folder):
    skip_without_fuse(attach.is_possible())
    bucket.put(d__a=b"text", b=b"")
    os.mkdir("place")

    said = bucket.done("mount", bucket.at("d"), "place")
    try:
        assert (folder / "place/a").read_text() == "text"
        (folder / "place/new").write_text("new")
    finally:
        left = bucket.commands.done("unmount", "place")

    assert said.startswith(f"mounted at {folder / 'place'} by process ")
    assert left == "unmounted place\n"
    assert bucket.in_bytes("cat", bucket.at("d/new")) == (0, b"new", "")
    assert "place" in bucket.fails("mount", bucket.url, "file/place")
