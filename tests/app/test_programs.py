"""Programs as people write them for Modal, run as their users run them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.app.running import Programs, ended, output

PROGRAMS = Path(__file__).parent / "programs"

PRINTED = {
    "checkpoints": """\
[]
from epoch 0
interrupted at epoch 2
['epoch-001.json', 'epoch-002.json', 'interrupted']
from epoch 2
0.0625
5
""",
    "crawler": """\
fetched True
31 pages; /31 from /15
""",
    "partitions": "[1, 2, 3] 1\n{'ann': [0], 'ben': [0, 1], 'cay': [0, 1, 2]} 0\n",
    "durable": "no such item\nlamp sent\n{1: 'lamp'} [1]\n",
    "map_files": """\
[0, 1, 2, 3, 4, 5, 6, 7]
[0, 1, 2, 3, 4, 5, 6, 7]
28
['counts/0.txt.json', 'counts/1.txt.json']
""",
    "shared_cache": """\
embedding 'red'
[177, 245]
[177, 245]
embedding 'blue'
False
['blue', 'red']
""",
    "failures": """\
no such city: atlantis True
['rome: sunny', 'NoSuchCity', 'oslo: sunny']
timeout: True
attempts: 3
killed: True
left: []
""",
    "read_only": """\
Read-only file system
result.txt
['inputs', 'inputs/data.txt', 'users', 'users/ann', 'users/ann/result.txt']
b'LAMP'
""",
}


PLAIN = ("partitions", "durable")  # run by `python`; they have no entrypoint


@pytest.fixture
def programs(own_database, tmp_path, fuse):
    return Programs(own_database, tmp_path)


@pytest.mark.parametrize("name", PRINTED)
def test_a_program_prints_what_it_does_on_modal(name, programs):
    """
    Nothing but its own output is on stdout, and nothing at all on stderr.
    """
    start = programs.python if name in PLAIN else lambda path: programs.pgstore("run", path)

    assert output(start(PROGRAMS / f"{name}.py")) == PRINTED[name]


def test_secrets_and_options_of_the_image_are_in_the_worker_and_arguments_in_the_entrypoint(programs, tmp_path):
    (tmp_path / "database.env").write_text("PASSWORD=hunter2\n")
    arguments = ["--user", "ann", "--times", "2", "--loud", "--ratio", "0.25"]

    out = output(
        programs.pgstore("run", PROGRAMS / "secrets_and_arguments.py", *arguments, PGSTORE_SECRETS_DIR=str(tmp_path))
    )

    assert out == "None (2, 0.25, True, None)\n" + "ANN:*******@DB.EXAMPLE.ORG APP /USR\n" * 2


def test_a_class_loads_its_model_once_a_worker_and_closes_at_the_end(programs):
    """
    There is one warning: nothing here is a GPU of the kind that it asks for.
    """
    code, out, err = ended(programs.pgstore("run", f"{PROGRAMS / 'model_class.py'}::main"))

    assert code == 0, err
    assert out == "[0, 2, 4] 300\n[0, 2, 4, 6]\n[0, 100, 200]\n"
    assert "A10G" in err
    assert err.count("LocalRunWarning") == 1
    logged = output(programs.pgstore("run", "-q", f"{PROGRAMS / 'model_class.py'}::logged"))
    assert logged == "['closed large', 'closed small', 'loaded large', 'loaded small']\n"


def test_every_program_is_run():
    assert {path.stem for path in PROGRAMS.glob("*.py")} - {"__init__"} == {
        *PRINTED,
        "secrets_and_arguments",
        "model_class",
    }
