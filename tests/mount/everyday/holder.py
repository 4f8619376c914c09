"""A program that has a store mounted: python -m tests.mount.everyday.holder KIND NAME DIRECTORY

It reads the URL of the database from its first line, then commands, and answers each with a line. `commit` and `remount` are such;
at the end of its input it unmounts.
"""

from __future__ import annotations

import sys

import pgstore


def main() -> None:
    kind, name, directory = sys.argv[1:]
    with pgstore.Client(sys.stdin.readline().strip()) as client:
        store = getattr(pgstore, kind).from_name(name, client=client)
        mount = store.mount(directory, mode="fuse")
        print("mounted", flush=True)
        for line in sys.stdin:
            match line.strip():
                case "commit":
                    mount.commit()
                case "remount":
                    mount.close()
                    mount = store.mount(directory, mode="fuse")
            print("done", flush=True)
        mount.close()


if __name__ == "__main__":
    main()
