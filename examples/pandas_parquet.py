"""
Tables of pandas in a Volume, by fsspec's URLs, in one transaction with what is noted about them.

Needs `pip install '.[fsspec]' pandas pyarrow`.
"""

import pandas as pd

import pgstore

options = {"create_if_missing": True}  # also database_url=, environment_name=
catalogue = pgstore.Dict.persist("pandas-catalogue")
weather = pd.DataFrame({"city": ["Oslo", "Rome", "Oslo"], "degrees": [3, 21, 5]})

with pgstore.transaction():  # the file and the note, or neither
    weather.to_parquet("pgstore://pandas-tables/weather/2025.parquet", storage_options=options)
    catalogue["weather/2025.parquet"] = {"rows": len(weather)}

degrees = pd.read_parquet("pgstore://pandas-tables/weather/2025.parquet", columns=["degrees"])
print(catalogue["weather/2025.parquet"], degrees["degrees"].max())

weather.to_csv("pgstorenfs://pandas-shared/weather.csv", index=False, storage_options=options)
print(pgstore.NetworkFileSystem.from_name("pandas-shared").listdir("/")[0].path)
