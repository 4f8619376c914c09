"""Whether and where something can be mounted, without mounting."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pgstore import errors
from pgstore.mount import attach, namespace


@pytest.fixture
def not_root(monkeypatch):
    """A user who may not mount."""
    monkeypatch.setattr(namespace, "may_mount", lambda: False)


@pytest.fixture
def helper(not_root, tmp_path, monkeypatch):
    """A function that makes a fusermount3 of the shell's commands."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def make(commands: str) -> None:
        program = tmp_path / "fusermount3"
        program.write_text(f"#!/bin/sh\n{commands}\n")
        program.chmod(0o755)

    return make


def test_why_nothing_can_be_mounted_is_said(monkeypatch, not_root, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(attach, "_DEVICE", "/dev/null")
    assert "fusermount3" in (attach.is_possible() or "")

    monkeypatch.setattr(attach, "_DEVICE", str(tmp_path / "fuse"))
    assert "has no FUSE" in (attach.is_possible() or "")

    monkeypatch.setattr(sys, "platform", "darwin")
    assert attach.is_possible() == "mounts need Linux"


def test_a_user_without_fusermount3_is_told_so(not_root, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(errors.ConfigurationError, match="fusermount3"):
        attach.attach(str(tmp_path), name="x")


def test_what_fusermount3_complains_of_is_said(helper, tmp_path):
    helper("echo 'fusermount3: user has no write access to mountpoint' >&2; exit 1")
    (tmp_path / "place").mkdir()

    with pytest.raises(errors.FileFailed, match="says: user has no write access to mountpoint"):
        attach.attach(str(tmp_path / "place"), name="x")


def test_a_fusermount3_that_gives_nothing_is_an_error(helper, tmp_path):
    helper("exit 0")
    (tmp_path / "place").mkdir()

    with pytest.raises(errors.FileFailed, match="gave no descriptor"):
        attach.attach(str(tmp_path / "place"), name="x")


def test_a_fusermount3_that_does_not_end_is_an_error(helper, tmp_path, monkeypatch):
    helper("exec sleep 60")
    (tmp_path / "place").mkdir()
    monkeypatch.setattr(attach, "_HELPER_SECONDS", 0.2)

    with pytest.raises(errors.TimedOut, match="did not end"):
        attach.attach(str(tmp_path / "place"), name="x")


def test_fusermount3_is_told_what_is_mounted_and_how(helper, tmp_path):
    helper(f'printf "%s\\n" "$@" >{tmp_path}/told; exit 1')
    (tmp_path / "place").mkdir()

    with pytest.raises(errors.FileFailed):
        attach.attach(str(tmp_path / "place"), name="a,b\\c", read_only=True, allow_others=True)

    flag, options, *rest = (tmp_path / "told").read_text().splitlines()
    assert (flag, rest) == ("-o", ["--", str(tmp_path / "place")])
    assert options.startswith("fsname=a\\,b\\\\c,subtype=pgstore,default_permissions,nosuid,nodev")
    assert options.endswith(",ro,allow_other")


@pytest.mark.parametrize(
    ("text", "allowed"), [("# user_allow_other\n", False), ("mount_max = 5\n user_allow_other \n", True)]
)
def test_others_are_allowed_where_the_settings_say_so(helper, tmp_path, monkeypatch, text, allowed):
    helper(f'printf "%s" "$2" >{tmp_path}/told; exit 1')
    (tmp_path / "fuse.conf").write_text(text)
    (tmp_path / "place").mkdir()
    monkeypatch.setattr(attach, "_SETTINGS", str(tmp_path / "fuse.conf"))

    with pytest.raises(errors.FileFailed):
        attach.attach(str(tmp_path / "place"), name="x")

    assert ("allow_other" in (tmp_path / "told").read_text()) is allowed


def test_a_link_to_a_directory_is_mounted_at_where_it_leads(tmp_path):
    (tmp_path / "place").mkdir()
    (tmp_path / "link").symlink_to("place")

    assert attach.usable(str(tmp_path / "link")) == str(tmp_path / "place")
    assert attach.usable(os.path.relpath(tmp_path / "place")) == str(tmp_path / "place")


AS_A_USER = """
import os
from pgstore.mount import namespace
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
print(namespace.may_mount())
"""


def test_who_is_not_root_may_not_mount():
    done = subprocess.run([sys.executable, "-c", AS_A_USER], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
