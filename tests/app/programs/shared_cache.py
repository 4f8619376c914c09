"""A slow function whose results are kept where other functions, and later runs, find them."""

import hashlib

import pgstore as modal

app = modal.App("example-cache")
cache = modal.Dict.from_name("embeddings", create_if_missing=True)


@app.function()
def embed(text: str) -> list[int]:
    print(f"embedding {text!r}")
    return list(hashlib.sha256(text.encode()).digest()[:2])


@app.function()
def lookup(text: str) -> list[int]:
    if (found := cache.get(text)) is None:
        found = cache[text] = embed.remote(text)
    return found


@app.function()
def compare(one: str, other: str) -> bool:
    return lookup.local(one) == lookup.local(other)


@app.local_entrypoint()
def main():
    print(lookup.remote("red"))
    print(lookup.remote("red"))
    print(compare.remote("red", "blue"))
    print(sorted(cache.keys()))
