"""Arrays of numpy, saved, loaded and mapped."""

import os

import numpy as np

COUNT = 100_000 * int(os.environ["TIMES"])

numbers = np.arange(COUNT)
np.save("numbers.npy", numbers)
mapped = np.load("numbers.npy", mmap_mode="r+")
mapped[5] = 7
mapped[-1] = 8
mapped.flush()
del mapped
loaded = np.load("numbers.npy")
assert loaded[5] == 7
assert loaded[-1] == 8
assert (loaded[6:-1] == numbers[6:-1]).all()

made = np.memmap("made", dtype="u1", mode="w+", shape=(COUNT,))
made[:] = 3
made.flush()
with open("made", "rb") as file:
    assert file.read() == b"\3" * COUNT
made[10:20] = 4
del made  # not flushed: the kernel does, before others open it
assert bytes(np.memmap("made", dtype="u1", mode="r")[8:22]) == b"\3" * 2 + b"\4" * 10 + b"\3" * 2

np.savez_compressed("several.npz", a=numbers, b=loaded)
with np.load("several.npz") as several:
    assert (several["a"] == numbers).all()
numbers.tofile("raw")
assert (np.fromfile("raw", dtype=numbers.dtype) == numbers).all()
