"""Order inside kernels: a prefix sum over a thread block, the rank of a score, and a sort that allocates nothing.

Scores go from the largest to the smallest, NaN last, equal ones by their position: the order of
``numpy.argsort(-scores, kind="stable")``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.jit import cpu_kernel
from kernels.launch import SIMULATED, cuda

SCAN_THREADS = 32 if SIMULATED else 256  # of the one block that compacts a list


@cuda.jit(device=True, inline="always")
def sum_before(value: Any, sums: Any) -> Any:
    """Sum of ``value`` over the threads of this block that come before this one; every thread must call it.

    ``sums`` is shared memory, (SCAN_THREADS,) int32; afterwards its last element is the sum over all threads.
    """
    thread, step = cuda.threadIdx.x, 1
    sums[thread] = value
    while step < cuda.blockDim.x:
        cuda.syncthreads()
        before = sums[thread - step] if thread >= step else 0
        cuda.syncthreads()
        sums[thread] += before
        step *= 2
    cuda.syncthreads()
    return sums[thread] - value


@cuda.jit(device=True, inline="always")
def rank_of(index: Any, scores: Any, count: Any) -> Any:
    """How many of the first ``count`` scores come before that at ``index``."""
    rank, score = 0, scores[index]
    for other in range(count):
        value = scores[other]
        same = value == score or (value != value and score != score)
        if value > score or (score != score and value == value) or (same and other < index):
            rank += 1
    return rank


@cpu_kernel()
def sort_scores(scores: NDArray[np.float32], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the scores (N,) in their order, (N,) int64: one row of ``order`` (2, N), which is all its scratch.

    Merges runs of 1, 2, 4, … positions from one row into the other.
    """
    size, run, now = scores.shape[0], 1, 0
    for index in range(size):
        order[0, index] = index
    while run < size:
        for start in range(0, size, 2 * run):
            middle, end = min(start + run, size), min(start + 2 * run, size)
            left, right = start, middle
            for target in range(start, end):
                if left < middle and (right >= end or not _comes_before(scores, order[now, right], order[now, left])):
                    order[1 - now, target] = order[now, left]
                    left += 1
                else:
                    order[1 - now, target] = order[now, right]
                    right += 1
        run, now = 2 * run, 1 - now
    result: NDArray[np.int64] = order[now]
    return result


@cpu_kernel(inline=True)
def _comes_before(scores: NDArray[np.float32], a: int, b: int) -> bool:
    """Whether score ``a`` is strictly better than score ``b``."""
    return scores[a] > scores[b] or (np.isnan(scores[b]) and not np.isnan(scores[a]))
