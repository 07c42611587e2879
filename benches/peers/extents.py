"""Sparse files: where their data is, and reading it as fast as the device allows."""

import mmap
import os
import threading
import time

READ_BYTES = 4 << 20
PAGE_BYTES = 4096


def data_extents(descriptor):
    """Yields (offset, length) of each range of the open file that may hold data, in order."""
    size = os.fstat(descriptor).st_size
    offset = 0
    while offset < size:
        try:
            start = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            return
        offset = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, offset - start


def union(left, right):
    """Merges two lists of (offset, length) into one that is sorted and has no overlaps."""
    merged = []
    for start, length in sorted([*left, *right]):
        if merged and start <= merged[-1][0] + merged[-1][1]:
            last_start, last_length = merged[-1]
            merged[-1] = (last_start, max(last_length, start + length - last_start))
        else:
            merged.append((start, length))
    return merged


def blocks(extents, block_bytes):
    """Cuts extents into (offset, length) of at most `block_bytes`."""
    for start, length in extents:
        for offset in range(start, start + length, block_bytes):
            yield offset, min(block_bytes, start + length - offset)


def direct_read_rate(path, readers, block_bytes):
    """Reads every data extent of `path` with O_DIRECT, `readers` at a time; returns MB/s."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        extents = list(data_extents(descriptor))
        work = blocks(extents, block_bytes)
        lock = threading.Lock()

        def reader():
            buffer = mmap.mmap(-1, block_bytes)
            while True:
                with lock:
                    block = next(work, None)
                if block is None:
                    return
                offset, length = block
                padded = -(-length // PAGE_BYTES) * PAGE_BYTES
                os.preadv(descriptor, [memoryview(buffer)[:padded]], offset)

        return sum(length for _, length in extents) / 1e6 / timed(reader, readers)
    finally:
        os.close(descriptor)


def direct_write_rate(path, total_bytes, block_bytes):
    """Writes `total_bytes` to a new file with O_DIRECT, two writers, and syncs it; returns MB/s."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_DIRECT, 0o600)
    try:
        work = blocks([(0, total_bytes)], block_bytes)
        lock = threading.Lock()
        content = os.urandom(block_bytes)

        def writer():
            buffer = mmap.mmap(-1, block_bytes)
            buffer.write(content)
            while True:
                with lock:
                    block = next(work, None)
                if block is None:
                    return
                os.pwritev(descriptor, [buffer], block[0])

        started = time.monotonic()
        timed(writer, 2)
        os.fsync(descriptor)
        return total_bytes / 1e6 / (time.monotonic() - started)
    finally:
        os.close(descriptor)
        os.unlink(path)


def timed(work, threads):
    """Runs `work` in so many threads; returns the seconds until the last has ended."""
    started = time.monotonic()
    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return time.monotonic() - started
