"""Training on one version of a dataset, while somebody goes on writing to it; the model's note says on which it was trained."""

import threading

import pandas as pd

import pgstore

dataset = pgstore.Volume.persist("dataset-versions", keep=20)
models = pgstore.Dict.persist("dataset-versions-models")


def write(slope: int) -> int:
    """Replace both files, in one version; return its number."""
    with pgstore.transaction():
        for name, rows in {"train": range(80), "test": range(80, 100)}.items():
            with dataset.open(f"/{name}.parquet", "wb") as file:
                pd.DataFrame({"x": rows, "y": [slope * x for x in rows]}).to_parquet(file)
        return dataset.next_version()


def read(version: pgstore.Volume, name: str) -> pd.DataFrame:
    with version.open(f"/{name}.parquet", "rb") as file:
        return pd.read_parquet(file)


def train(number: int) -> str:
    version = dataset.at(number)  # what it reads is kept as long as this handle is
    train_rows = read(version, "train")
    slope = (train_rows.x * train_rows.y).sum() / (train_rows.x**2).sum()

    others = threading.Thread(target=write, args=[5])  # in real life another process
    others.start()
    others.join()

    test_rows = read(version, "test")  # of what belongs to the rows that it was trained on
    error = (slope * test_rows.x - test_rows.y).abs().max()
    return f"slope {slope:.1f}, error {error:.1f}"


if __name__ == "__main__":
    first = write(slope=3)
    models[first] = train(first)  # meanwhile another one is written
    newest = dataset.versions(limit=1)[0].version
    models[newest] = train(newest)
    print(models[first], models[newest], sep="\n")
