"""One client for each thread and place: a client belongs to the thread that made it, and engines have worker threads."""

import os
import threading

from kvant._core import Client, DaemonGoneError

_ARENA_BYTES = 1 << 30  # address space: some conversations of a model of 7e9 weights
_of_thread = threading.local()


def connect(uri="embedded:", **options):
    """This thread's client of `uri`, made at its first call here, and anew after the daemon has gone. Options are those of kvant.Client
    and count when a client is made; arena_bytes is 1 GiB if not given, since all conversations of a thread have their raw rows there.

    "embedded:" is a daemon inside this process for this thread alone: threads that shall share prefixes connect to a kvantd.
    """
    clients = _of_thread.__dict__.setdefault("clients", {})
    key = (os.getpid(), uri)  # after a fork the parent's clients are inert
    if key not in clients or not _lives(clients[key]):
        clients[key] = Client(uri, **{"arena_bytes": _ARENA_BYTES, **options})
    return clients[key]


def _lives(client):
    try:
        client.ping()
    except DaemonGoneError:
        return False
    return True
