"""One client for each thread and place: a client belongs to the thread that made it, and engines have worker threads."""

import os
import threading

from kvant._core import Client

_of_thread = threading.local()


def connect(uri="embedded:", **options):
    """This thread's client of `uri`, made at its first call here. Options are those of kvant.Client and count at that first call.

    "embedded:" is a daemon inside this process for this thread alone: threads that shall share prefixes connect to a kvantd.
    """
    clients = _of_thread.__dict__.setdefault("clients", {})
    key = (os.getpid(), uri)  # after a fork the parent's clients are inert
    if key not in clients:
        clients[key] = Client(uri, **options)
    return clients[key]
