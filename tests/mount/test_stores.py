"""The checks of every verb, on a mounted NetworkFileSystem and a mounted Volume: as root and as another user."""

from __future__ import annotations

import os
import uuid
from typing import Any

import pytest

import pgstore
from pgstore.mount.daemon import backends
from tests.fixtures.trees import assert_sound
from tests.fixtures.unpassed import UNPASSED
from tests.mount.checks import contents
from tests.mount.checks.exerciser import exercise
from tests.mount.checks.run import COMMON, ROOTS
from tests.mount.checks.tools import USER
from tests.mount.conftest import reachable_directory
from tests.mount.test_checks import run

# What bytes lie in makes no difference to names; and a check of large directories is enough once.
OF_CONTENTS = {check.__name__ for check in contents.CHECKS}
OF_LARGE_DIRECTORIES = {
    "check_what_is_removed_while_it_is_read_hides_nothing_else",
    "check_seekdir_and_rewinddir",
    "check_a_listing_has_each_name_once_and_the_dots",
    "check_what_stays_is_listed_once_while_others_come_and_go",
}
assert COMMON.keys() >= OF_LARGE_DIRECTORIES
KINDS: dict[str, tuple[Any, str]] = {
    "NetworkFileSystem": (pgstore.NetworkFileSystem, "rows"),
    "NetworkFileSystem of large objects": (pgstore.NetworkFileSystem, "large_object"),
    "Volume": (pgstore.Volume, "rows"),
    "Volume of large objects": (pgstore.Volume, "large_object"),
}


# Nothing of it is passed through: the kernel asks for all that is read and written.
UNPASSED_KIND = "Volume of large objects"


@pytest.fixture(scope="module", params=KINDS)
def mounted(request, fuse, database):
    kind, storage = KINDS[request.param]
    with (
        pytest.MonkeyPatch.context() as patch,
        pgstore.Client(database) as client,
        reachable_directory() as directory,
    ):
        if request.param == UNPASSED_KIND:
            patch.setitem(backends.FACTORIES, "volume", UNPASSED)
        name = f"checks-{uuid.uuid4().hex[:8]}"
        store = kind.from_name(name, create_if_missing=True, client=client, storage=storage)
        with store.mount(directory, mode="fuse"):
            yield directory, storage
        assert_sound(database, store)


@pytest.fixture(scope="module")
def results(mounted):
    directory, storage = mounted
    here = directory / "first"
    here.mkdir()
    return run(here, *(() if storage == "rows" else sorted(OF_CONTENTS)))


@pytest.fixture(scope="module")
def results_of_a_user(mounted):
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    directory, storage = mounted
    here = directory / "second"
    here.mkdir()
    os.chown(here, USER, USER)
    names = COMMON.keys() - OF_LARGE_DIRECTORIES if storage == "rows" else OF_CONTENTS
    return run(here, *sorted(names), "--user", str(USER))


def verdict(results, name):
    if name not in results:
        pytest.skip("is the same whatever the storage, and for everybody")
    assert results[name] is None, results[name]


@pytest.mark.parametrize("name", COMMON)
def test_verbs_do_what_posix_says(results, name):
    verdict(results, name)


@pytest.mark.parametrize("name", ROOTS)
def test_users_may_do_what_modes_say(results, name):
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    verdict(results, name)


@pytest.mark.parametrize("name", COMMON)
def test_verbs_do_what_posix_says_for_a_user(results_of_a_user, name):
    verdict(results_of_a_user, name)


@pytest.mark.parametrize("seed", range(2))
def test_random_reads_writes_truncations_and_maps_agree_with_a_model(mounted, seed):
    directory, _ = mounted
    exercise(directory / f"exercised-{seed}", seed=seed, operations=800)
