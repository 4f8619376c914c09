"""`python -m pgstore`: the command line, also where its program is not on the path."""

from pgstore.cli import main

if __name__ == "__main__":
    main()
