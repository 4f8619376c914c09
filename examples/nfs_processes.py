"""Two processes on one NetworkFileSystem: what one has written, the other reads at once, and their appends never mix."""

import multiprocessing
from multiprocessing.synchronize import Barrier

import pgstore

shared = pgstore.NetworkFileSystem.persist("nfs-processes")


def append(name: str, start: Barrier) -> None:
    start.wait()  # all at the same time
    with shared.open("/log.txt", "a") as log:
        for number in range(50):
            log.write(f"{name} {number}\n")
            log.flush()  # now everybody sees it; one flush of up to 1 MiB is in one piece


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    writers = [context.Process(target=append, args=[name, start]) for name in ("ann", "bob")]
    for writer in writers:
        writer.start()  # before pgstore is used, which starts threads
    shared.write_text("/log.txt", "")
    start.wait()
    for writer in writers:
        writer.join()

    lines = [line.split() for line in shared.read_text("/log.txt").splitlines()]
    for name in ("ann", "bob"):  # nothing is mixed up, and each one's lines are in their order
        print(name, [int(number) for writer, number in lines if writer == name] == list(range(50)))
