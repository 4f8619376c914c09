"""Many threads that write: files of their own, and one that all share."""

import os
import threading

THREADS = 16
COUNT = 5 * int(os.environ["TIMES"])
PIECE = 5000
failures: list[BaseException] = []
shared = os.open("shared", os.O_RDWR | os.O_CREAT)


def use(number: int) -> None:
    try:
        os.mkdir(f"thread{number}")
        for turn in range(COUNT):
            name = f"thread{number}/{turn}"
            data = bytes([number]) * (turn * 1000 + 1)
            with open(name, "wb") as file:
                file.write(data)
            with open(name, "rb") as file:
                assert file.read() == data
            os.rename(name, f"{name}.done")
            os.pwrite(shared, bytes([number]) * PIECE, (turn * THREADS + number) * PIECE)
            assert os.pread(shared, PIECE, (turn * THREADS + number) * PIECE) == bytes([number]) * PIECE
        assert len(os.listdir(f"thread{number}")) == COUNT
    except BaseException as exc:
        failures.append(exc)


threads = [threading.Thread(target=use, args=(number,)) for number in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures
os.close(shared)
with open("shared", "rb") as file:
    for _ in range(COUNT):
        for number in range(THREADS):
            assert file.read(PIECE) == bytes([number]) * PIECE
    assert file.read() == b""
