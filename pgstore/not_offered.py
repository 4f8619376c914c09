"""Names of Modal's that make no sense on one machine: they can be imported and annotated with, and refuse to be used."""

from __future__ import annotations

from typing import Any, Final, NoReturn

from pgstore.errors import NotOffered

REASONS: Final = {
    "Environment": "an environment is a name: pgstore.configure(environment=…)",
    "Probe": "there are no Sandboxes",
    "Proxy": "there is no network of functions to put it in front of",
    "Sandbox": "a function runs with the rights of its program; isolate what is foreign with a container of its own",
    "SandboxSnapshot": "there are no Sandboxes",
    "SchedulerPlacement": "there is one machine",
    "Server": "nothing is served; start the server as any other program",
    "Tunnel": "nothing is reachable from outside; ssh -R, or a proxy, can do that",
    "Workspace": "there are no accounts",
    "batched": "a function is called with one input; have it take a list, and give it one",
    "billing": "there are no accounts",
    "config": "see pgstore.configure",
    "experimental": "what is tried out there is for several machines",
    "forward": "nothing is reachable from outside; ssh -R, or a proxy, can do that",
    "gpu": "gpu= takes a str, such as 'H100', and functions run on this machine as it is",
    "interact": "a function has no terminal; use breakpoint() in what .local(…) runs",
}


class _NotOffered(type):
    """So that also what the class is asked for is refused."""

    def __getattr__(cls, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(f"{cls.__name__} has no attribute {name!r}")
        cls._refuse(name)

    def __call__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        cls._refuse("")

    def _refuse(cls, name: str) -> NoReturn:
        used = f"{cls.__name__}.{name}" if name else cls.__name__
        raise NotOffered(f"pgstore has no {used}: {REASONS[cls.__name__]}")


def placeholder(name: str) -> Any:
    """What stands for *name*."""
    return _NotOffered(name, (), {"__module__": "pgstore", "__doc__": f"Refused: {REASONS[name]}."})
