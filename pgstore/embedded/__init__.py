"""A Postgres of one's own, for programs that were given none.

`ensure()` returns the URL of a server that runs for this OS user, making and starting it if need be. It listens on a
unix socket only this user can reach, keeps its data with real fsync, and goes on running when the program ends: the
next one attaches in a few milliseconds. `pgstore server stop` (`Server.stop`) ends it.

One directory holds everything, and nothing outside it is ever chmod-ed or chown-ed::

    <directory>/            0700; 0711 where another user must run the server (identity.py)
        data/               the Postgres data directory, complete from the moment it has this name
        run/                0700, the socket; a short path in /tmp where this one is too long for a socket
        server.log          what the server says; errors quote its end
        start.lock          held while one process starts or stops the server
        server.lock         held by the server and every process of it, so by nobody exactly when none is left
        bin-<major>-<hash>/ copied programs, only where the server's user cannot reach the installed ones

`throw_away_server` gives one that goes with the program that asked for it, for tests.

`server` starts, attaches and stops; `initialise` makes the data directory. `binaries` finds the programs, `paths` the
directory, and `identity` the user who runs them. `locks` and `postmaster` tell whether a server is running. `throw_away` sees to it
that nothing is left of a server for tests.
"""

from pgstore.embedded.binaries import Binaries, find_binaries
from pgstore.embedded.paths import default_directory
from pgstore.embedded.server import Server, Status, ensure
from pgstore.embedded.throw_away import throw_away_server

__all__ = ["Binaries", "Server", "Status", "default_directory", "ensure", "find_binaries", "throw_away_server"]
