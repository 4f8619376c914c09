"""Image: accepted whatever it is asked for, and what a program may notice the lack of is said once."""

from __future__ import annotations

import sys
import warnings

import pytest

import pgstore
from pgstore.app import warn


@pytest.fixture(autouse=True)
def _nothing_was_said():
    warn.forget()


def test_every_constructor_and_method_gives_an_image_silently():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = (
            pgstore.Image.micromamba()
            .pip_install("torch", "numpy>=2", extra_index_url="x")
            .uv_pip_install(["a"])
            .apt_install("git")
            .run_commands("make")
            .of_a_later_version(1, a=2)
            .pipe(lambda image, name: image.pip_install(name), "b")
        )

    assert isinstance(image, pgstore.Image)
    assert isinstance(pgstore.Image.of_a_later_version(), pgstore.Image)
    assert repr(image).startswith("<pgstore.Image micromamba.pip_install")


def test_environment_and_working_directory_are_kept_along_the_chain_and_not_shared():
    base = pgstore.Image.debian_slim().env({"A": "1"})
    image = base.env({"B": "2"}).workdir("/").pip_install("x")

    assert (image._environment, image._workdir) == ({"A": "1", "B": "2"}, "/")
    assert (base._environment, base._workdir) == ({"A": "1"}, None)


@pytest.mark.parametrize("wrong", [None, {"A": 1}, [("A", "hush")], {1: "hush"}])
def test_env_takes_str_and_its_error_shows_no_value(wrong):
    with pytest.raises(pgstore.InvalidError, match="dict of str") as caught:
        pgstore.Image.debian_slim().env(wrong)
    assert "hush" not in str(caught.value)


def test_a_workdir_is_a_path():
    with pytest.raises(pgstore.InvalidError, match="path of a directory"):
        pgstore.Image.debian_slim().workdir(5)  # type: ignore[arg-type]


def test_imports_that_fail_are_passed_over():
    with pgstore.Image.debian_slim().imports():
        import no_such_module_anywhere  # type: ignore[import-not-found]  # noqa: F401

    with pytest.raises(ZeroDivisionError), pgstore.Image.debian_slim().imports():
        _ = 1 / 0


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: pgstore.Image.from_registry("nvidia/cuda:12", add_python="3.12"), "from_registry.*nvidia/cuda:12"),
        (lambda: pgstore.Image.from_dockerfile("Dockerfile"), "from_dockerfile"),
        (lambda: pgstore.Image.debian_slim("2.7"), "Python 2.7"),
        (
            lambda: pgstore.Image.debian_slim().run_function(test_a_workdir_is_a_path),
            "test_a_workdir_is_a_path.*not run",
        ),
        (lambda: pgstore.Image.debian_slim().add_local_dir("here", "/nowhere"), "here at /nowhere"),
        (lambda: pgstore.Image.debian_slim().add_local_file("here", remote_path="/nowhere"), "here at /nowhere"),
    ],
)
def test_what_a_program_may_notice_is_said_once(make, complaint):
    with pytest.warns(pgstore.LocalRunWarning, match=complaint):
        make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make()


def test_what_is_so_anyway_is_not_warned_of(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pgstore.Image.debian_slim(f"{sys.version_info.major}.{sys.version_info.minor}.1")
        pgstore.Image.debian_slim().add_local_dir("here", str(tmp_path))


def test_a_worker_does_not_say_it_again(monkeypatch):
    monkeypatch.setenv("PGSTORE_IS_REMOTE", "1")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pgstore.Image.from_registry("x")


def test_what_says_which_files_are_copied_is_accepted_and_asked_for_nothing(tmp_path):
    """
    It stands at the top of programs, which would not start without it.
    """
    matchers = [pgstore.FilePatternMatcher("**/*.py", "!x"), ~pgstore.FilePatternMatcher.from_file("missing")]

    images = [pgstore.Image.debian_slim().add_local_dir("here", str(tmp_path), ignore=each) for each in matchers]

    assert [type(image) for image in images] == [pgstore.Image] * 2
    with pytest.raises(pgstore.errors.NotOffered, match="matches no path"):
        matchers[0](tmp_path)
