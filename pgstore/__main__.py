"""The program `pgstore`, and `python -m pgstore`: the command line, also where its program is not on the path."""

# Not `signal`, which rests on this: it makes enumerations first, and Ctrl-C does not wait for them.
import _signal as signal  # type: ignore[import-not-found]
import os


def main() -> None:
    """Run the command line and exit."""
    # First of all: what follows takes a third of a second to import, and Ctrl-C within it is no reason for a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    from pgstore import cli

    cli.main(_end)


def _end(*_: object) -> None:
    os._exit(130)


if __name__ == "__main__":
    main()
