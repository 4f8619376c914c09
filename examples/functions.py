"""Functions with a Volume at /texts: `pgstore run functions.py --words 5`, or `python functions.py`."""

import io
from pathlib import Path

import pgstore

app = pgstore.App("functions")
texts = pgstore.Volume.persist("functions-texts")
counts = pgstore.Dict.persist("functions-counts")


@app.function(volumes={"/texts": texts})
def count(name: str) -> int:
    return len(Path("/texts", name).read_text().split())


@app.function(transactional=True)
def add(words: int) -> None:
    counts.increment("words", words)


@app.local_entrypoint()
def main(words: int = 3) -> None:
    for name in ("one.txt", "two.txt"):
        texts.put_file(io.BytesIO(b"word " * words), name)
    found = list(count.map(["one.txt", "two.txt"]))

    with pgstore.transaction():  # the entry and the calls exist, or, after an exception, neither
        counts.put("words", 0)
        calls = [add.spawn(words) for words in found]
    pgstore.FunctionCall.gather(*calls)
    print(found, counts["words"])


if __name__ == "__main__":
    with app.run():
        main()
