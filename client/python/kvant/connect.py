"""One client for each thread and place: a client belongs to the thread that made it, and engines have worker threads."""

import os
import threading

from kvant._core import Client, DaemonGoneError

_ARENA_BYTES = 1 << 30  # address space: some conversations of a model of 7e9 weights
_of_thread = threading.local()
_embedded = {}  # (process, uri) -> the first client of the daemon inside; the other threads' are made from it
_lock = threading.Lock()


def connect(uri="embedded:", **options):
    """This thread's client of `uri`, made at its first call here, and anew after the daemon has gone. Options are those of kvant.Client
    and count when a client is made; arena_bytes is 1 GiB if not given, since all conversations of a thread have their raw rows there.

    "embedded:" is one daemon inside this process for all threads that come here, with the options of the first.
    """
    clients = _of_thread.__dict__.setdefault("clients", {})
    key = (os.getpid(), uri)  # after a fork the parent's clients are inert
    if key not in clients or not _lives(clients[key]):
        clients[key] = _embedded_client(key, options) if uri == "embedded:" else _new_client(uri, options)
    return clients[key]


def _new_client(uri, options):
    return Client(uri, **{"arena_bytes": _ARENA_BYTES, **options})


def _embedded_client(key, options):
    with _lock:
        if key in _embedded:
            return _embedded[key].for_this_thread()
        _embedded[key] = _new_client(key[1], options)
        return _embedded[key]


def _lives(client):
    try:
        client.ping()
    except DaemonGoneError:
        return False
    return True
