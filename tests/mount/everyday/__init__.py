"""Programs as people run them, and a server for them to run on: see `test_everyday`.

Each script is run in an empty directory, with $HOME elsewhere, and fails where something is other than on a local disk. By hand:

    cd DIR && TIMES=1 PYTHON=python3 SOURCES=/work/of/mine bash -eu -o pipefail tests/mount/everyday/copies.sh
"""
