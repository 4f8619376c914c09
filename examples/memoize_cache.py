"""A cache of all processes: of eight that ask for one thing at the same time, one computes it, and the others wait for that."""

import multiprocessing
import time

import pgstore

cache = pgstore.Dict.persist("memoize-cache")
computed = pgstore.Dict.persist("memoize-computed")


@cache.memoize(
    ttl=3600, key=lambda month: f"report/{month}"
)  # without key=, one of the function, its code and its arguments
def report(month: str) -> str:
    computed.increment(month)
    time.sleep(0.3)  # hard work
    return f"all that was sold in {month}"


if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(8) as pool:  # before pgstore is used, which starts threads
        cache.clear()
        computed.clear()
        answers = pool.map(report, ["June"] * 8, chunksize=1)
    print(set(answers), "computed", computed["June"], "time")

    del cache["report/June"]  # it has changed, say: whoever asks next computes it anew
    print(report("June"), "computed", computed["June"], "times")
