"""This process and its peers: hosts, control plane, signals, watchdog, memory allocator."""

from jaxdl.room import open_room

open_room(__name__)
