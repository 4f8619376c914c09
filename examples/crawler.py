"""A crawler whose workers may die: a page is leased, and what it gave and the links on it are stored with the end of the lease."""

import contextlib
import multiprocessing
import os
import queue
import re
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request, urlopen

import pgstore

LINKS = {"/": ["/a", "/b"], "/a": ["/b", "/deadly"], "/b": ["/", "/c"], "/deadly": ["/c"], "/c": []}


class Site(BaseHTTPRequestHandler):
    killed: int | None = None

    def do_GET(self) -> None:
        if self.path == "/deadly" and Site.killed is None:  # whoever fetches this page first is killed
            Site.killed = int(self.headers["User-Agent"])
            os.kill(Site.killed, signal.SIGKILL)
            return  # with the connection
        self.send_response(200)
        self.end_headers()
        self.wfile.write("".join(f'<a href="{link}">' for link in LINKS[self.path]).encode())

    def log_message(self, *args: object) -> None:
        pass


def crawl(site: str, frontier: pgstore.Queue, pages: pgstore.Dict) -> None:
    with contextlib.suppress(queue.Empty):  # nothing came for three seconds: all is done
        while True:
            with frontier.get(
                lease=1, renew=True, timeout=3
            ) as lease:  # a killed worker's page comes again after the second
                request = Request(site + lease.item, headers={"User-Agent": str(os.getpid())})
                with urlopen(request) as answer:
                    html = answer.read().decode()
                with pgstore.transaction():  # all of it counts once, also where a page was fetched twice
                    pages[lease.item] = len(html)
                    for link in re.findall('href="(.*?)"', html):
                        frontier.put(link, idempotency_key=link)  # no effect where it was put before
                    lease.ack()


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Site) as server,
        pgstore.Queue.ephemeral() as frontier,
        pgstore.Dict.ephemeral() as pages,
    ):
        threading.Thread(target=server.serve_forever).start()
        site = f"http://127.0.0.1:{server.server_port}"
        frontier.put("/", idempotency_key="/")
        workers = [context.Process(target=crawl, args=(site, frontier, pages)) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print(sorted(pages.keys()), "killed:", [worker.exitcode for worker in workers].count(-signal.SIGKILL))
        server.shutdown()
