"""The ways in which editors save a file, and in which programs replace one."""

import os
import shutil
import tempfile


def by_rename(text: str) -> None:
    """As most do."""
    descriptor, name = tempfile.mkstemp(dir=".", prefix=".notes.")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), os.stat("notes").st_mode & 0o7777)
        os.fsync(file.fileno())
    os.replace(name, "notes")
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


def by_moving_to_a_backup(text: str) -> None:
    """As vim does with backupcopy=no; it looks first whether it may write here, with a file named 4913."""
    os.close(os.open("4913", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o100664))
    os.unlink("4913")
    mode = os.stat("notes").st_mode & 0o7777
    os.rename("notes", "notes~")
    with open(os.open("notes", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        os.fsync(file.fileno())
    os.chmod("notes", mode)
    os.unlink("notes~")


def by_copying_to_a_backup(text: str) -> None:
    """As vim does with backupcopy=yes, and emacs with backup-by-copying."""
    shutil.copy2("notes", "notes~")
    in_place(text)


def by_removing(text: str) -> None:
    mode = os.stat("notes").st_mode & 0o7777
    os.unlink("notes")
    with open("notes", "x") as file:
        file.write(text)
    os.chmod("notes", mode)


def in_place(text: str) -> None:
    """As nano does."""
    with open("notes", "w") as file:
        file.write(text)


def in_place_from_behind(text: str) -> None:
    """And cut off afterwards."""
    with open("notes", "r+") as file:
        file.write(text)
        file.truncate()


def by_exchange(text: str) -> None:
    """The new file and a lock of emacs: a symbolic link that leads nowhere."""
    os.symlink("user@host.1234:5678", ".#notes")
    assert os.readlink(".#notes") == "user@host.1234:5678"
    by_rename(text)
    os.unlink(".#notes")


with open("notes", "w") as file:
    file.write("first")
os.chmod("notes", 0o640)
reader = open("notes")  # noqa: SIM115 - a pager that stays open
expected = ""
for number in range(5):
    for save in (
        by_rename,
        by_moving_to_a_backup,
        by_copying_to_a_backup,
        by_removing,
        in_place,
        in_place_from_behind,
        by_exchange,
    ):
        for text in (f"{save.__name__} {number}\n" * 100, f"{number}", "", "more\n" * 5000):
            save(text)
            with open("notes") as file:
                assert file.read() == text, save
            assert os.stat("notes").st_size == len(text), save
            assert os.stat("notes").st_mode & 0o7777 == 0o640, save
reader.close()
assert sorted(os.listdir(".")) == ["notes", "notes~"]
