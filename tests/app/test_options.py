"""What `app.function` is given is checked where it is written, without a database and before anything runs."""

from __future__ import annotations

import warnings
from pathlib import Path, PurePosixPath

import pytest

import pgstore
from pgstore.app import warn


@pytest.fixture(autouse=True)
def _nothing_was_said():
    warn.forget()


@pytest.fixture
def app():
    return pgstore.App("tests")


def f():
    """A function at the top of a module, for decorators."""


VOLUME = pgstore.Volume.from_name("v")
BUCKET = pgstore.CloudBucketMount.from_s3_bucket("b")
NFS = pgstore.NetworkFileSystem.from_name("n")


# ------------------------------------------------------------------------------------------------------------- decorators


@pytest.mark.parametrize("decorator", ["function", "cls", "local_entrypoint"])
def test_forgotten_parentheses_are_told_of(app, decorator):
    with pytest.raises(pgstore.InvalidError, match="Did you forget parentheses"):
        getattr(app, decorator)(f)


def test_a_class_is_no_function_and_a_function_no_class(app):
    with pytest.raises(TypeError, match=r"use @app\.cls"):
        app.function()(Path)
    with pytest.raises(TypeError, match=r"use @app\.function"):
        app.cls()(f)


def test_a_function_that_no_worker_could_find_is_refused(app):
    def local():
        pass

    class Methods:
        def method(self):
            pass

    for raw in (local, lambda: None):
        with pytest.raises(pgstore.InvalidError, match="serialized=True"):
            app.function()(raw)
    with pytest.raises(pgstore.InvalidError, match=r"@pgstore\.method"):
        app.function(serialized=True)(Methods.method)

    assert app.function(serialized=True)(local).name == "local"


def test_an_unknown_option_is_a_type_error_that_names_those_there_are(app):
    with pytest.raises(TypeError, match=r"no option 'volume'.*volumes"):
        app.function(volume={"/data": VOLUME})(f)


def test_two_functions_of_one_name_are_warned_of_and_the_later_is_meant(app):
    app.function()(f)

    with pytest.warns(UserWarning, match="the later is meant"):
        later = app.function()(f)

    assert app.registered_functions == {"f": later}


def test_a_decorator_that_belongs_below_app_function_is_refused_above_it(app):
    with pytest.raises(pgstore.InvalidError, match="below"):
        pgstore.concurrent(max_inputs=2)(app.function()(f))


# ----------------------------------------------------------------------------------------------------------------- mounts


@pytest.mark.parametrize("path", ["/data", "/data/", PurePosixPath("/data"), Path("/data")])
def test_a_path_may_be_a_str_or_a_path_with_a_slash_at_its_end(app, path):
    function = app.function(volumes={path: VOLUME})(f)

    assert function._spec.mounts == (("/data", VOLUME),)


def test_a_bucket_is_mounted_by_either_option_at_several_paths(app):
    buckets = {"/a": BUCKET, "/b/c": BUCKET}

    assert app.function(cloud_bucket_mounts=buckets)(f)._spec.mounts == tuple(buckets.items())
    both = app.function(name="both", volumes={"/v": VOLUME, **buckets}, cloud_bucket_mounts={"/b": BUCKET})(f)
    assert [path for path, _ in both._spec.mounts] == ["/a", "/b", "/b/c", "/v"]


@pytest.mark.parametrize("path", ["data", "", "/a/../b", "/a//b", "//a", "/a/./b", "./a", "/a\0b"])
def test_a_path_that_is_not_absolute_and_canonical_is_refused(app, path):
    with pytest.raises(pgstore.InvalidError, match="canonical, absolute path"):
        app.function(volumes={path: VOLUME})(f)


@pytest.mark.parametrize("path", ["/", "/root", "/tmp", "/tmp/", "/proc", "/dev", "/etc", "/usr", "/lib", "/home"])
def test_a_path_that_a_worker_needs_itself_is_refused(app, path):
    with pytest.raises(pgstore.InvalidError, match="cannot be mounted at"):
        app.function(volumes={path: VOLUME})(f)


@pytest.mark.parametrize("path", ["/root/data", "/tmp/data", "/home/me/data", "/root/.cache/huggingface"])
def test_below_those_a_store_may_be_mounted(app, path):
    assert app.function(volumes={path: VOLUME})(f)._spec.mounts[0][0] == path


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"volumes": [VOLUME]}, "a dict of paths"),
        ({"volumes": {5: VOLUME}}, "a path, a str"),
        ({"volumes": {"/data": NFS}}, "not usable as a Volume; pass it as network_file_systems="),
        ({"network_file_systems": {"/data": VOLUME}}, "not usable as a NetworkFileSystem; pass it as volumes="),
        ({"volumes": {"/data": "v"}}, "Object of type str mounted at '/data'"),
        ({"volumes": {"/data": VOLUME}, "network_file_systems": {"/data/": NFS}}, "two stores are mounted at '/data'"),
        ({"volumes": {"/data": VOLUME, "/data/": NFS}}, "not usable"),
        ({"cloud_bucket_mounts": {"/data": VOLUME}}, "not usable as a CloudBucketMount; pass it as volumes="),
        ({"network_file_systems": {"/data": BUCKET}}, "pass it as cloud_bucket_mounts="),
        ({"volumes": {"/data": BUCKET}, "cloud_bucket_mounts": {"/data": BUCKET}}, "two stores are mounted at '/data'"),
    ],
)
def test_what_cannot_be_mounted_is_refused(app, options, complaint):
    with pytest.raises(pgstore.InvalidError, match=complaint):
        app.function(**options)(f)


@pytest.mark.parametrize(
    "other",
    [
        pgstore.Volume.from_name("v"),
        pgstore.Volume.from_name("v", create_if_missing=True),
        VOLUME.with_mount_options(read_only=True),
        VOLUME.read_only(),
    ],
)
def test_one_volume_at_two_paths_is_refused(app, other):
    with pytest.raises(pgstore.InvalidError, match=r"multiple locations for the same function: /a, /b"):
        app.function(volumes={"/a": VOLUME, "/b": other})(f)


def test_several_directories_of_one_volume_and_volumes_of_two_environments_may_be_mounted(app):
    others = {
        "/one": VOLUME.with_mount_options(sub_path="one"),
        "/two": VOLUME.with_mount_options(sub_path="two"),
        "/test": pgstore.Volume.from_name("v", environment_name="test"),
        "/x": pgstore.Volume.ephemeral(),
        "/y": pgstore.Volume.ephemeral(),
    }
    same = {"/n": NFS, "/m": NFS}

    mounts = app.function(volumes=others, network_file_systems=same)(f)._spec.mounts

    assert dict(mounts) == others | same


def test_mounts_are_given_outer_ones_first(app):
    function = app.function(volumes={"/a/b": VOLUME}, network_file_systems={"/a": NFS})(f)

    assert [path for path, _ in function._spec.mounts] == ["/a", "/a/b"]


# ------------------------------------------------------------------------------------------------------- the other options


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": "5"},
        {"timeout": float("nan")},
        {"startup_timeout": 0},
        {"max_containers": 0},
        {"max_containers": 1.5},
        {"scaledown_window": -1},
        {"single_use_containers": "yes"},
        {"retries": -1},
        {"retries": True},
        {"retries": "2"},
        {"image": "debian"},
        {"schedule": "* * * * *"},
        {"secrets": "name"},
        {"secrets": ["name"]},
        {"secrets": {"A": "b"}},
        {"env": {"A": 1}},
        {"cpu": "two"},
        {"memory": "much"},
        {"region": 5},
        {"min_containers": "one"},
        {"enable_memory_snapshot": 1},
        {"experimental_options": []},
        {"transactional": 1},
    ],
    ids=str,
)
def test_a_wrong_value_is_an_error_at_the_decorator(app, options):
    with pytest.raises(pgstore.InvalidError, match=next(iter(options))):
        app.function(**options)(f)


def test_no_error_shows_a_value_that_may_be_secret(app):
    for options in ({"secrets": ["hush"]}, {"env": {"A": ["hush"]}}, {"secrets": {"A": "hush"}}):
        with pytest.raises(pgstore.InvalidError) as caught:
            app.function(**options)(f)
        assert "hush" not in str(caught.value)


def test_none_stands_for_an_option_that_is_not_given(app):
    names = ("timeout", "retries", "max_containers", "scaledown_window", "schedule", "image", "secrets", "env", "gpu")

    function = app.function(**dict.fromkeys(names))(f)

    assert function._options == pgstore.App().function()(f)._options


def test_options_reach_the_workers(app):
    function = app.function(max_containers=3, scaledown_window=2, single_use_containers=True, startup_timeout=9)(f)

    spec = function._spec

    assert (spec.max_workers, spec.scaledown_window, spec.single_use, spec.startup_timeout) == (3, 2, True, 9)
    assert spec is function._spec  # one object is one pool


def test_a_number_of_retries_means_one_second_between_them(app):
    retries = app.function(retries=2)(f)._options.retries

    assert [retries.delay(n) for n in (1, 2)] == [1.0, 1.0]


def test_what_machines_are_to_be_like_is_accepted_silently(app):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        app.function(cpu=(1, 2.5), memory=1024, region=["eu", "us"], cloud="aws", min_containers=1)(f)


def test_a_gpu_is_warned_of_once_in_a_category_that_can_be_made_an_error(app):
    with pytest.warns(pgstore.LocalRunWarning, match="f asks for gpu='H100'") as said:
        app.function(gpu="H100")(f)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pgstore.App().function(gpu="A100")(f)

    assert said[0].filename == __file__
    warn.forget()
    with warnings.catch_warnings():
        warnings.simplefilter("error", pgstore.LocalRunWarning)
        with pytest.raises(pgstore.LocalRunWarning):
            pgstore.App().function(gpu="H100")(f)


@pytest.mark.parametrize(
    "options",
    [{"block_network": True}, {"restrict_modal_access": True}, {"proxy": object()}, {"i6pn": True}],
    ids=lambda options: next(iter(options)),
)
def test_a_promise_that_cannot_be_kept_is_refused(app, options):
    with pytest.raises(pgstore.InvalidError, match="pgstore"):
        app.function(**options)(f)
    app.function(**dict.fromkeys(options, False))(f)


@pytest.mark.parametrize(
    ("old", "field", "value"),
    [
        ({"concurrency_limit": 2}, "max_containers", 2),
        ({"container_idle_timeout": 5}, "scaledown_window", 5.0),
        ({"shared_volumes": {"/n": NFS}}, "network_file_systems", (("/n", NFS),)),
        ({"allow_concurrent_inputs": 4}, "inputs_at_once", 4),
        ({"max_inputs": 1}, "single_use_containers", True),
        ({"keep_warm": 1}, "max_containers", None),
        ({"interactive": True}, "timeout", None),
        ({"mounts": []}, "volumes", ()),
    ],
    ids=str,
)
def test_an_old_spelling_means_the_same_and_is_warned_of_once(app, old, field, value):
    with pytest.warns(DeprecationWarning, match=next(iter(old))) as said:
        function = app.function(**old)(f)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pgstore.App().function(**old)(f)

    assert getattr(function._options, field) == value
    assert [each.category for each in said] == [pgstore.exception.DeprecationError]


def test_old_and_new_spelling_together_are_refused(app):
    with pytest.warns(DeprecationWarning, match="old option"), pytest.raises(pgstore.InvalidError, match="old name"):
        app.function(concurrency_limit=2, max_containers=3)(f)


def generator():
    yield 1


def needs(argument, optional=1):
    pass


def test_a_generator_has_no_retries_and_is_not_transactional(app):
    with pytest.raises(pgstore.InvalidError, match="generator"):
        app.function(retries=1)(generator)
    with pytest.raises(pgstore.InvalidError, match="generator"):
        app.function(transactional=True)(generator)


def test_a_schedule_is_for_functions_that_need_no_arguments(app):
    app.function(schedule=pgstore.Period(days=1))(f)

    with pytest.raises(pgstore.InvalidError, match="argument"):
        app.function(schedule=pgstore.Period(days=1))(needs)


# --------------------------------------------------------------------------------------------- Retries, Period, Cron, App


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_retries": -1},
        {"max_retries": 1.5},
        {"max_retries": 1, "backoff_coefficient": 0.5},
        {"max_retries": 1, "backoff_coefficient": 11},
        {"max_retries": 1, "initial_delay": -1},
        {"max_retries": 1, "initial_delay": 61},
        {"max_retries": 1, "max_delay": 0.5},
        {"max_retries": 1, "max_delay": 61},
    ],
    ids=str,
)
def test_retries_have_bounds(wrong):
    with pytest.raises(pgstore.InvalidError, match=list(wrong)[-1]):
        pgstore.Retries(**wrong)


def test_delays_grow_up_to_the_longest():
    retries = pgstore.Retries(max_retries=9, initial_delay=2.0, max_delay=10)

    assert [retries.delay(n) for n in range(1, 5)] == [2.0, 4.0, 8.0, 10.0]
    assert retries.delay(10**9) == 10.0


@pytest.mark.parametrize(
    "wrong", [("* * * *",), ("hello",), (None,), ("* * * * ;",), ("0 9 * * 4", "Mars/Olympus"), ("0 9 * * 4", 5)]
)
def test_a_cron_string_has_five_fields_and_its_zone_is_known(wrong):
    with pytest.raises(pgstore.InvalidError, match="cron string|time zone"):
        pgstore.Cron(*wrong)
    assert pgstore.Cron("*/5 0-6 1,15 JAN MON", timezone="Europe/Berlin").timezone == "Europe/Berlin"


def test_a_period_is_not_empty_and_of_whole_numbers_but_for_seconds():
    assert pgstore.Period(seconds=3.14).seconds == 3.14
    for wrong in ({}, {"days": 1.5}, {"hours": -1}):
        with pytest.raises(pgstore.InvalidError):
            pgstore.Period(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"name": 5}, {"name": "a b"}, {"name": "x" * 65}, {"image": 1}, {"secrets": "s"}, {"volumes": {"v": VOLUME}}],
)
def test_an_app_is_checked_where_it_is_made(wrong):
    with pytest.raises(pgstore.InvalidError):
        pgstore.App(**wrong)


def test_what_an_app_says_is_the_default_of_its_functions(app):
    app = pgstore.App(volumes={"/data": VOLUME}, secrets=[pgstore.Secret.from_dict({"A": "app", "B": "app"})])
    app.image = pgstore.Image.debian_slim().env({"A": "image", "I": "image"}).workdir("/")
    other = pgstore.Volume.from_name("other")

    plain, own = app.function()(f), app.function(volumes={"/data": other}, env={"A": "own"}, name="own")(f)

    assert (dict(plain._spec.mounts), dict(own._spec.mounts)) == ({"/data": VOLUME}, {"/data": other})
    assert plain._spec.environment() == {"A": "app", "B": "app", "I": "image"}
    assert own._spec.environment() == {"A": "own", "B": "app", "I": "image"}
    assert plain._spec.workdir == "/"
    with pytest.raises(pgstore.InvalidError, match="image"):
        app.image = "debian"


def test_a_volume_of_the_app_is_not_mounted_once_more_by_a_function():
    app = pgstore.App(volumes={"/a": VOLUME})

    with pytest.raises(pgstore.InvalidError, match="multiple locations"):
        app.function(volumes={"/b": VOLUME})(f)
    assert dict(app.function(network_file_systems={"/a": NFS})(f)._spec.mounts) == {"/a": NFS}
