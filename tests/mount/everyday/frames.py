"""Tables of pandas, as Parquet and CSV, whole and by partitions."""

import os

import pandas as pd
import pyarrow.parquet as pq

COUNT = 10_000 * int(os.environ["TIMES"])

frame = pd.DataFrame({"number": range(COUNT), "word": ["word"] * COUNT, "part": [n % 3 for n in range(COUNT)]})
frame.to_parquet("frame.parquet")
assert pd.read_parquet("frame.parquet").equals(frame)
assert pq.read_table("frame.parquet", columns=["number"], memory_map=True).num_rows == COUNT
frame.to_parquet("parts", partition_cols=["part"])
assert sorted(pd.read_parquet("parts").number) == list(range(COUNT))
frame.to_csv("frame.csv", index=False)
with open("frame.csv", "a") as file:
    file.write("-1,more,0\n")
assert len(pd.read_csv("frame.csv")) == COUNT + 1
