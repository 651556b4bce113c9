"""This process and its peers: hosts, control plane, signals, watchdog, memory allocator."""
