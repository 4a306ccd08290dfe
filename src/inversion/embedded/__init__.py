"""The local PostgreSQL as one more supervised child of the node.

binaries (which PostgreSQL), place (where and as whom), leftovers (of a killed owner), server (lock, initdb,
start, restart, stop); each imports only those before it.
`await nursery.start(EmbeddedPostgres(config.folder / ".inversion").run)` answers the conninfo.
"""

from inversion.embedded.binaries import Binaries, EmbeddedUnavailable, find_binaries
from inversion.embedded.place import Account, Place
from inversion.embedded.server import EmbeddedPostgres

__all__ = ["Account", "Binaries", "EmbeddedPostgres", "EmbeddedUnavailable", "Place", "find_binaries"]
