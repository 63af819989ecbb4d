"""How the C library manages the memory of a process."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def keep_memory() -> None:
    """Makes glibc keep freed memory for the next tensor of the same size.

    By default glibc returns large blocks to the kernel at once, and the kernel clears every page again when the next
    step allocates as much: a quarter of a convolutional tokenizer's time on a CPU. Blocks above 32 MB, the largest
    threshold that glibc accepts, are still returned.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**25)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 2**24)
