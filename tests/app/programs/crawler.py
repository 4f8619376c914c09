"""Crawls a small web: the Queue has the pages to fetch, the Dict those that were seen."""

import pgstore as modal

app = modal.App("example-crawler")

WEB = {f"/{n}": [f"/{2 * n}", f"/{2 * n + 1}", "/1"] for n in range(1, 16)}


def fetch(url: str) -> list[str]:
    return WEB.get(url, [])


@app.function(max_containers=2)
def crawl(queue: modal.Queue, seen: modal.Dict) -> int:
    fetched = 0
    while True:
        urls = queue.get_many(4, block=False)
        if not urls:
            return fetched
        for url in urls:
            fetched += 1
            new = [link for link in dict.fromkeys(fetch(url)) if seen.put(link, url, skip_if_exists=True)]
            queue.put_many(new)


@app.local_entrypoint()
async def main():
    async with modal.Queue.ephemeral() as queue, modal.Dict.ephemeral() as seen:
        await seen.put.aio("/1", None)
        await queue.put.aio("/1")
        while await queue.len.aio():
            calls = [await crawl.spawn.aio(queue, seen) for _ in range(2)]
            print("fetched", sum([await call.get.aio() for call in calls]) > 0)
        print(await seen.len.aio(), "pages;", "/31 from", await seen.get.aio("/31"))
