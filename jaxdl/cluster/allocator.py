"""Settings of malloc for processes on CPU: keep the memory of one step for the next.

XLA takes a step's temporaries from malloc and gives them back at its end. glibc then returns them
to the kernel, and the next step pays for every page anew: tens of thousands of page faults.
"""

import ctypes
import mmap
import os
from pathlib import Path

# <malloc.h>; unchanged since glibc 2.10
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
MADV_HUGEPAGE = 14  # mmap.MADV_HUGEPAGE is there only where Python was built with it


ACCELERATORS = ("dev/nvidia[0-9]*", "dev/accel[0-9]*", "dev/vfio/[0-9]*")
"""Files that the drivers of GPUs and TPUs create, from the root of a file system."""


def keep_memory() -> bool:
    """Have this process keep what it frees, in one heap of large pages; says whether it will.

    To be called before there are threads: one that has an arena of its own keeps it, and asks the
    kernel again for each step. Nothing changes where the allocator is not glibc's, nor on the host
    of an accelerator, whose many readers of data would wait for one another's turn at the heap.
    """
    libc = _glibc()
    if libc is None or _serves_accelerator():
        return False
    # Threads' own arenas end at 64 MiB: larger blocks would be mapped, and unmapped, each time.
    kept = [
        libc.mallopt(M_ARENA_MAX, 1),
        libc.mallopt(M_MMAP_MAX, 0),
        libc.mallopt(M_TRIM_THRESHOLD, -1),
    ]
    _use_large_pages(libc)
    return all(kept)


def _serves_accelerator() -> bool:
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return False
    return any(any(Path("/").glob(pattern)) for pattern in ACCELERATORS)


def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018, its absence is the question
    except (OSError, TypeError, AttributeError):
        return None
    return libc


def _use_large_pages(libc: ctypes.CDLL) -> None:
    # Address space for half of the memory, none of it used yet: what malloc hands out later comes
    # from here, and advice given to the range holds for it.
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = libc.malloc(size)
    if start:
        page = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        libc.madvise(page, size - mmap.PAGESIZE, MADV_HUGEPAGE)
        libc.free(start)
