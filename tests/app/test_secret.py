"""Secrets: where values come from, who may have them, and that nobody else sees them."""

from __future__ import annotations

import base64
import copy
import logging
import os
import pickle
import re
import subprocess
import textwrap
import traceback

import cloudpickle
import pytest

import pgstore
from pgstore import cli as command_line
from pgstore.admin import secrets as admin
from pgstore.errors import ConfigurationError
from tests.app.running import Programs, output

VALUE = "hunter2-0f3a"
MINE = {"PASSWORD": VALUE}


def new_key():
    return base64.b64encode(os.urandom(32)).decode()


@pytest.fixture
def key(monkeypatch):
    key = new_key()
    monkeypatch.setenv("PGSTORE_SECRET_KEY", key)
    return key


@pytest.fixture
def name(request, sql):
    """A name that no other test has."""
    name = re.sub("[^a-z_]", "", request.node.name)[-64:]
    yield name
    sql("DELETE FROM pgstore.secret WHERE name = %s", name)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """`PGSTORE_SECRETS_DIR`."""
    monkeypatch.setenv("PGSTORE_SECRETS_DIR", str(tmp_path))
    return tmp_path


# --- from_dict, from_local_environ, from_dotenv -----------------------------------------------------------------------


def test_a_dict_is_its_variables_without_those_that_are_none():
    assert pgstore.Secret.from_dict({"A": "1", "B": None})._values() == {"A": "1"}
    assert pgstore.Secret.from_dict()._values() == {}


@pytest.mark.parametrize(
    "given", [["A"], {"A": 1}, {"A": b"x"}, {1: "x"}, {"": "x"}, {"A=B": "x"}, {"A": f"{VALUE}\0"}, {"A": [VALUE]}]
)
def test_what_is_no_dict_of_variables_is_refused_without_a_value_in_the_message(given):
    with pytest.raises(
        pgstore.InvalidError, match=r"env_dict argument .* has to be a dict\[str, str \| None\]"
    ) as raised:
        pgstore.Secret.from_dict(given)

    assert VALUE not in str(raised.value)


def test_variables_of_this_process_are_read_when_the_secret_is_made(monkeypatch):
    monkeypatch.setenv("PASSWORD", VALUE)
    secret = pgstore.Secret.from_local_environ(["PASSWORD"])
    monkeypatch.setenv("PASSWORD", "another")

    assert secret._values() == MINE


def test_a_variable_that_is_not_set_is_named(monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)

    with pytest.raises(pgstore.InvalidError, match="'NOWHERE' for Secret.from_local_environ"):
        pgstore.Secret.from_local_environ(["NOWHERE"])
    with pytest.raises(pgstore.InvalidError, match="list of names"):
        pgstore.Secret.from_local_environ("NOWHERE")


def test_a_worker_reads_no_variables_of_its_own(monkeypatch):
    """
    The program's module runs there too; what counts is what the caller had.
    """
    monkeypatch.setenv("PGSTORE_IS_REMOTE", "1")

    assert pgstore.Secret.from_local_environ(["NOWHERE"])._values() == {}


def test_a_dotenv_file_is_found_upward_from_a_file_or_directory(tmp_path):
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / ".env").write_text(f"# mine\nexport PASSWORD='{VALUE}'\nEMPTY=\n")
    (tmp_path / "a" / "dev.env").write_text("STAGE=dev\n")
    (below / "program.py").touch()

    assert pgstore.Secret.from_dotenv(below)._values() == {**MINE, "EMPTY": ""}
    assert pgstore.Secret.from_dotenv(below / "program.py", filename="dev.env")._values() == {"STAGE": "dev"}


def test_a_dotenv_file_without_a_path_is_that_of_the_calling_file_else_of_the_current_directory(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    for directory in (here, there):
        directory.mkdir()
        (directory / ".env").write_text(f"DIRECTORY={directory.name}\n")
    monkeypatch.chdir(here)
    program = "import pgstore; found = pgstore.Secret.from_dotenv()._values()"

    of_file: dict[str, object] = {"__file__": str(there / "program.py")}
    of_nothing: dict[str, object] = {}
    exec(program, of_file)
    exec(program, of_nothing)

    assert (of_file["found"], of_nothing["found"]) == ({"DIRECTORY": "there"}, {"DIRECTORY": "here"})


def test_a_dotenv_file_that_is_missing_or_no_text_is_an_error_that_names_it(tmp_path):
    with pytest.raises(pgstore.InvalidError, match=r"no file 'missing.env' in .*, nor above"):
        pgstore.Secret.from_dotenv(tmp_path, filename="missing.env")._values()
    (tmp_path / ".env").write_bytes(b"A=\xff\n")
    with pytest.raises(pgstore.InvalidError, match="not UTF-8"):
        pgstore.Secret.from_dotenv(tmp_path)._values()


# --- from_name --------------------------------------------------------------------------------------------------------


def test_a_named_secret_is_the_file_then_the_table_then_the_environment(name, key, folder, client, call, monkeypatch):
    """
    A file beside the program stands for the secret that others have stored.
    """
    monkeypatch.setenv("PASSWORD", "of the environment")
    secret = pgstore.Secret.from_name(name, required_keys=["PASSWORD"], client=client)

    found = [secret._values()]
    call(pgstore.Secret.objects.create, name, {"PASSWORD": "of the table"}, client=client)
    found.append(secret._values())
    (folder / f"{name}.env").write_text("PASSWORD=of the file\n")
    found.append(secret._values())

    assert [values["PASSWORD"] for values in found] == ["of the environment", "of the table", "of the file"]


def test_a_name_that_nobody_knows_is_the_environment_as_it_is_and_one_warning(name, client):
    secret = pgstore.Secret.from_name(name, client=client)

    with pytest.warns(pgstore.errors.LocalRunWarning, match=f"{name}' is not stored") as warned:
        assert [secret._values(), secret._values()] == [{}, {}]

    assert [warning.filename for warning in warned] == [__file__]


def test_a_required_key_that_is_missing_is_named_with_the_secret(name, key, folder, client, monkeypatch):
    monkeypatch.delenv("TOKEN", raising=False)
    secret = pgstore.Secret.from_name(name, required_keys=["PASSWORD", "TOKEN"], client=client)
    monkeypatch.setenv("PASSWORD", VALUE)
    told = []

    for step in range(3):
        if step == 1:
            pgstore.Secret.objects.create(name, MINE, client=client)
        if step == 2:
            (folder / f"{name}.env").write_text(f"PASSWORD={VALUE}\n")
        with pytest.raises(pgstore.InvalidError, match="TOKEN") as raised:
            secret._values()
        told.append(str(raised.value))

    assert all(name in line and VALUE not in line for line in told)


@pytest.mark.parametrize("bad", ["", "with space", 7])
def test_a_bad_name_is_refused_where_the_handle_is_made(bad):
    with pytest.raises(pgstore.InvalidError, match="Secret name"):
        pgstore.Secret.from_name(bad)
    with pytest.raises(pgstore.InvalidError, match="list of names"):
        pgstore.Secret.from_name("good", required_keys="TOKEN")


def test_making_a_handle_connects_to_nothing():
    unreachable = pgstore.Client("postgresql://127.0.0.1:1/nowhere")

    assert pgstore.Secret.from_name("a", client=unreachable).name == "a"


# --- the table --------------------------------------------------------------------------------------------------------


def test_secrets_are_created_listed_and_deleted(name, key, client, call):
    secret = pgstore.Secret.from_name(name, client=client)
    call(pgstore.Secret.objects.create, name, MINE, client=client)

    with pytest.raises(pgstore.AlreadyExistsError, match="exists already"):
        call(pgstore.Secret.objects.create, name, {"PASSWORD": "other"}, client=client)
    call(pgstore.Secret.objects.create, name, {"PASSWORD": "other"}, allow_existing=True, client=client)
    assert secret._values() == MINE
    assert name in [each.name for each in call(pgstore.Secret.objects.list, client=client)]
    assert call(pgstore.Secret.objects.list, max_objects=0, client=client) == []
    assert call(pgstore.Secret.objects.list, environment_name="elsewhere", client=client) == []
    info = call(secret.info)
    assert (info.name, info.last_used_at is not None) == (name, True)

    call(pgstore.Secret.objects.delete, name, client=client)
    with pytest.raises(pgstore.NotFoundError, match=name):
        call(pgstore.Secret.objects.delete, name, client=client)
    call(pgstore.Secret.objects.delete, name, allow_missing=True, client=client)
    with pytest.raises(pgstore.NotFoundError, match=name):
        call(secret.info)


def test_an_update_sets_some_variables_and_leaves_the_others(name, key, client, call):
    secret = pgstore.Secret.from_name(name, client=client)
    pgstore.Secret.objects.create(name, {"A": "1", "B": "2"}, client=client)

    call(secret.update, {"B": "3", "C": "4"})

    assert secret._values() == {"A": "1", "B": "3", "C": "4"}
    with pytest.raises(pgstore.InvalidError, match="cannot be None"):
        call(secret.update, {"A": None})
    with pytest.raises(pgstore.InvalidError, match="not stored"):
        call(pgstore.Secret.from_dict(MINE).update, {"A": "1"})


def test_two_who_update_one_secret_lose_nothing(name, key, client, client_elsewhere):
    """
    The second waits for the first, and keeps what that has set.
    """
    from concurrent.futures import ThreadPoolExecutor

    pgstore.Secret.objects.create(name, {"A": "0"}, client=client)
    theirs = pgstore.Secret.from_name(name, client=client_elsewhere)
    with ThreadPoolExecutor() as threads:
        with client.transaction():
            pgstore.Secret.from_name(name, client=client).update({"B": "1"})
            waiting = threads.submit(theirs.update, {"C": "2"})
        waiting.result(timeout=20)

    assert theirs._values() == {"A": "0", "B": "1", "C": "2"}


def test_a_secret_is_part_of_the_transaction_that_creates_it(name, key, client):
    with pytest.raises(ZeroDivisionError), client.transaction():
        pgstore.Secret.objects.create(name, MINE, client=client)
        raise ZeroDivisionError

    assert name not in [each.name for each in pgstore.Secret.objects.list(client=client)]


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [(None, "PGSTORE_SECRET_KEY is not set"), ("", "empty"), ("c2hvcnQ=", "key 1 .* is not 32 bytes"), ("?", "key 1")],
)
def test_without_a_key_nothing_is_stored(name, client, monkeypatch, keys, complaint):
    """
    A secret in clear text would be in every dump.
    """
    monkeypatch.delenv("PGSTORE_SECRET_KEY", raising=False)
    if keys is not None:
        monkeypatch.setenv("PGSTORE_SECRET_KEY", keys)

    with pytest.raises(ConfigurationError, match=complaint) as raised:
        pgstore.Secret.objects.create(name, MINE, client=client)

    assert VALUE not in str(raised.value)
    assert name not in [each.name for each in pgstore.Secret.objects.list(client=client)]


def test_a_stored_secret_that_no_key_opens_is_an_error_and_not_the_environment(name, key, client, monkeypatch):
    """
    The program would run with what happens to be set.
    """
    monkeypatch.setenv("PASSWORD", "of the environment")
    secret = pgstore.Secret.from_name(name, required_keys=["PASSWORD"], client=client)
    pgstore.Secret.objects.create(name, MINE, client=client)

    monkeypatch.setenv("PGSTORE_SECRET_KEY", new_key())
    with pytest.raises(ConfigurationError, match=f"no key of PGSTORE_SECRET_KEY opens the secret '{name}'"):
        secret._values()
    monkeypatch.delenv("PGSTORE_SECRET_KEY")
    with pytest.raises(ConfigurationError, match="stored encrypted, and PGSTORE_SECRET_KEY is not set"):
        secret._values()


def test_keys_are_changed_while_both_are_known(name, key, own_database, monkeypatch):
    """
    The new one first: it encrypts, and after `rotate` it alone is needed.
    """
    new = new_key()
    with pgstore.Client(own_database) as client:
        secret = pgstore.Secret.from_name(name, client=client)
        pgstore.Secret.objects.create(name, MINE, client=client)

        monkeypatch.setenv("PGSTORE_SECRET_KEY", f"{new},{key}")
        assert secret._values() == MINE
        assert admin.rotate(client) == 1
        monkeypatch.setenv("PGSTORE_SECRET_KEY", new)
        assert secret._values() == MINE

        monkeypatch.setenv("PGSTORE_SECRET_KEY", new_key())
        with pytest.raises(ConfigurationError, match=name):
            admin.rotate(client)


def test_a_row_moved_to_another_name_opens_nothing(name, key, client, sql):
    """
    Who may write to the table, and has no key, gives nobody the values of another secret.
    """
    pgstore.Secret.objects.create(name, MINE, client=client)
    sql("UPDATE pgstore.secret SET name = %s WHERE name = %s", f"{name[:60]}.two", name)
    try:
        with pytest.raises(ConfigurationError, match="moved it by hand"):
            pgstore.Secret.from_name(f"{name[:60]}.two", client=client)._values()
    finally:
        sql("DELETE FROM pgstore.secret WHERE name = %s", f"{name[:60]}.two")


# --- who sees values --------------------------------------------------------------------------------------------------


def test_no_repr_log_pickle_or_row_has_a_value(name, key, client, sql, caplog, monkeypatch, tmp_path):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("PASSWORD", VALUE)
    (tmp_path / ".env").write_text(f"PASSWORD={VALUE}")
    pgstore.Secret.objects.create(name, MINE, client=client)
    secrets = [
        pgstore.Secret.from_dict(MINE),
        pgstore.Secret.from_local_environ(["PASSWORD"]),
        pgstore.Secret.from_dotenv(tmp_path),
        pgstore.Secret.from_name(name, client=client),
    ]
    assert [secret._values() for secret in secrets] == [MINE] * 4

    seen = [
        *(repr(secret) + str(secret) + repr(vars(secret)) + repr(secret._values()) for secret in secrets),
        *(dumps(secret) for secret in secrets for dumps in (pickle.dumps, cloudpickle.dumps)),
        caplog.text,
        *map(repr, sql("SELECT s::text, s.token FROM pgstore.secret s WHERE name = %s", name)),
    ]

    assert len(seen) == 14
    assert _with_value(seen) == []


def _with_value(seen):
    return [each for each in seen if (VALUE if isinstance(each, str) else VALUE.encode()) in each]


def test_a_traceback_with_local_variables_has_no_value(name, key, client):
    """
    As programs that report errors send them.
    """
    pgstore.Secret.objects.create(name, MINE, client=client)
    secret = pgstore.Secret.from_name(name, required_keys=["TOKEN"], client=client)

    with pytest.raises(pgstore.InvalidError) as raised:
        secret._values()
    told = "".join(traceback.TracebackException.from_exception(raised.value, capture_locals=True).format())

    assert "self = <values of PASSWORD>" in told
    assert _with_value([told]) == []


def test_a_worker_has_the_values_and_no_row_of_a_call_has_one(key, own_database, tmp_path, server):
    """
    Not while the call waits, either: whoever starts the worker finds them.
    """
    with pgstore.Client(own_database) as client:
        pgstore.Secret.objects.create("mine", MINE, client=client)
    (tmp_path / "program.py").write_text(
        textwrap.dedent("""
            import os
            import pgstore

            app = pgstore.App("secretive")

            @app.function(secrets=[pgstore.Secret.from_name("mine"), pgstore.Secret.from_dict({"OTHER": "value"})])
            def letters(argument):
                return len(os.environ["PASSWORD"]), os.environ["OTHER"]

            @app.local_entrypoint()
            def main():
                call = letters.spawn("an argument")
                print(letters.remote("an argument"), call.get(), os.environ.get("PASSWORD"))
        """)
    )
    programs = Programs(own_database, tmp_path)

    output(programs.python("-c", "import program; program.letters.spawn('an argument')", PGSTORE_SECRET_KEY=key))
    printed = output(programs.pgstore("run", "program.py", PGSTORE_SECRET_KEY=key))

    assert printed == f"({len(VALUE)}, 'value') ({len(VALUE)}, 'value') None\n"
    dump = subprocess.run([server.bin_dir / "pg_dump", own_database], check=True, capture_output=True, text=True).stdout
    assert b"an argument".hex() in dump
    assert not [each for each in (VALUE, VALUE.encode().hex()) if each in dump]


def test_a_named_secret_is_pickled_as_its_name_and_others_lose_their_values(name, key, client):
    pgstore.Secret.objects.create(name, MINE, client=client)
    named = pickle.loads(pickle.dumps(pgstore.Secret.from_name(name, required_keys=["PASSWORD"])))
    given = pgstore.Secret.from_dict(MINE)
    fetched = pickle.loads(pickle.dumps(given))

    assert repr(named) == f"pgstore.Secret.from_name({name!r})"
    assert named._required_keys == ("PASSWORD",)
    assert repr(fetched) == repr(given) == "pgstore.Secret.from_dict(<PASSWORD>)"
    with pytest.raises(pgstore.InvalidError, match="was pickled, without its values"):
        fetched._values()
    assert copy.deepcopy(given)._values() == copy.copy(given)._values() == MINE


def test_a_dump_of_the_database_has_no_value(key, own_database, server):
    with pgstore.Client(own_database) as client:
        pgstore.Secret.objects.create("mine", MINE, client=client)

    dump = subprocess.run([server.bin_dir / "pg_dump", own_database], check=True, capture_output=True, text=True).stdout

    assert "mine" in dump
    assert _with_value([dump]) == []


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def cli(own_database, key, capsys, monkeypatch):
    """Runs `pgstore` in this process: starting one takes a second. Returns exit code, output and what was complained about."""
    monkeypatch.setenv("PGSTORE_URL", own_database)

    def run(*arguments):
        code = command_line.run(["secret", *arguments])
        return code, *capsys.readouterr()

    return run


def test_the_command_line_stores_lists_and_deletes(cli, own_database, tmp_path, monkeypatch):
    editor, more = tmp_path / "editor", tmp_path / "more.json"
    editor.write_text(f"#!/bin/sh\nprintf '%s\\n' {VALUE} > \"$1\"\n")
    editor.chmod(0o755)
    more.write_text('{"HOST": "db.example.org"}')
    monkeypatch.setenv("EDITOR", str(editor))
    monkeypatch.delenv("VISUAL", raising=False)

    code, out, err = cli("create", "database", "USER=me=myself", "PASSWORD=-", "--from-json", str(more))

    assert (code, err) == (0, "")
    assert "stored secret database with USER, PASSWORD, HOST" in out
    assert "db.example.org" not in out
    assert VALUE not in out
    with pgstore.Client(own_database) as client:
        values = pgstore.Secret.from_name("database", client=client)._values()
    assert values == {**MINE, "USER": "me=myself", "HOST": "db.example.org"}
    assert cli("create", "database", "A=1")[::2] == (1, f"error: {EXISTS}\n")
    assert cli("create", "database", "A=1", "--force")[0] == 0
    assert cli("list")[1].split()[:7] == ["Name", "Created", "at", "Created", "by", "Last", "used"]
    assert '"name": "database"' in cli("list", "--json")[1]
    assert cli("list", "--json", "-e", "staging")[1] == "[]\n"
    code, _, err = cli("delete", "database")
    assert (code, "--yes" in err) == (1, True)
    assert cli("rotate")[1] == "1 encrypted with the first key\n"
    assert cli("delete", "database", "-y")[0] == 0
    assert cli("delete", "database", "-y")[0] == 1
    assert cli("delete", "database", "-y", "--allow-missing")[0] == 0


EXISTS = "Secret 'database' exists already in environment 'main'; pass allow_existing=True to accept that, or call its update()"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["mine"], "at least one"),
        (["mine", VALUE], "argument 1 after the name is not KEY=VALUE"),
        (["mine", f"={VALUE}"], "argument 1"),
        (["mine", "--from-json", "number.json"], "not an object of strings"),
        (["mine", "--from-json", "broken.json"], "not JSON"),
        (["mine", "--from-dotenv", "missing.env"], "no file 'missing.env'"),
        (["two words", "A=1"], "two words"),
    ],
)
def test_wrong_arguments_of_create_are_one_line_and_code_2(cli, tmp_path, monkeypatch, arguments, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "number.json").write_text('{"A": 1}')
    (tmp_path / "broken.json").write_text(f'{{"A": "{VALUE}"')

    code, out, err = cli("create", *arguments)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert hint in err
    assert VALUE not in err
