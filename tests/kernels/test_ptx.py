"""The GPU's instructions do what `kernels.ptx` says: tried in the simulator, and on a device where there is one."""

import numpy as np
import pytest

from kernels.launch import cuda, to_device, to_host
from kernels.ptx import (
    PIECE,
    activate_pair,
    commit_copies,
    copy_piece,
    load_matrices,
    multiply_matrices,
    store_pair,
    wait_for_copies,
    wait_for_older_copies,
)

DEVICES = [pytest.param("simulator", marks=pytest.mark.simulator), pytest.param("device", marks=pytest.mark.gpu)]
on_devices = pytest.mark.parametrize("device", DEVICES)


def launch(kernel, threads, *arrays):
    """The arrays after a launch of one block."""
    there = [to_device(array) for array in arrays]
    kernel[1, threads](*there)
    return [to_host(array) for array in there]


@cuda.jit
def _copy(source, start, inside, out):
    """Each thread copies a piece, then stores it number by number."""
    pieces = cuda.shared.array(32, PIECE)
    thread = cuda.threadIdx.x
    copy_piece(pieces, thread, source, start[thread], inside[thread] != 0)
    commit_copies()
    commit_copies()  # an empty group: the copy is not the newest any more
    wait_for_older_copies()
    cuda.syncthreads()
    out[thread] = pieces[31 - thread]


@on_devices
def test_copy_moves_16_bytes_or_fills_with_zeros(device):
    rng = np.random.default_rng(0)
    source = rng.standard_normal((10, 40)).astype(np.float16)
    start, inside = 8 * rng.permutation(50)[:32], rng.random(32) < 0.6
    start[~inside] = -(10**9)  # is not looked at
    out = np.full(32, np.nan + 0j)
    *_, found = launch(_copy, 32, source, start, inside.astype(np.int32), out)
    copied = [source.ravel()[s : s + 8] if there else np.zeros(8) for s, there in zip(start, inside, strict=True)]
    assert np.array_equal(found.view(np.float16).reshape(32, 8)[::-1], copied)


@cuda.jit
def _wait(source, out):
    """Each thread copies a piece and reads its neighbour's."""
    pieces = cuda.shared.array(32, PIECE)
    thread = cuda.threadIdx.x
    copy_piece(pieces, thread, source, 8 * thread, True)
    wait_for_copies()
    cuda.syncthreads()
    out[thread] = pieces[31 - thread]


@on_devices
def test_wait_for_all_needs_no_group(device):
    source = np.random.default_rng(0).standard_normal(256).astype(np.float16)
    _, found = launch(_wait, 32, source, np.zeros(32, PIECE))
    assert np.array_equal(found[::-1], source.view(PIECE))


@pytest.mark.simulator
def test_emulated_copies_arrive_when_they_are_waited_for_and_not_before():
    source, shared = np.arange(24, dtype=np.float16), np.zeros(3, PIECE)
    for piece in range(3):
        copy_piece(shared, piece, source, 8 * piece, True)
        commit_copies()
    arrived = [list(np.nonzero(shared)[0])]
    wait_for_older_copies()
    arrived.append(list(np.nonzero(shared)[0]))
    wait_for_copies()
    arrived.append(list(np.nonzero(shared)[0]))
    assert arrived == [[], [0, 1], [0, 1, 2]] and np.array_equal(shared.view(np.float16), source)


@cuda.jit
def _load(numbers, out):
    """Four matrices of 8 lines of 16 bytes each, the lines of matrix m stored backwards when m is odd."""
    pieces = cuda.shared.array(64, PIECE)
    lane = cuda.threadIdx.x % 32
    pieces[cuda.threadIdx.x] = numbers[cuda.threadIdx.x]
    cuda.syncthreads()
    matrix, line = lane // 8, lane % 8
    first = 32 * (cuda.threadIdx.x // 32)
    found = load_matrices(pieces, first + 8 * matrix + (7 - line if matrix % 2 else line))
    for m in range(4):
        out[cuda.threadIdx.x, m] = found[m]


@on_devices
def test_load_gives_each_lane_a_pair_of_each_matrix(device):
    numbers = np.arange(512, dtype=np.float16)
    _, found = launch(_load, 64, numbers.view(PIECE), np.zeros((64, 4), np.uint32))
    found = found.view(np.float16).reshape(2, 32, 4, 2)
    for warp, lane, matrix in np.ndindex(2, 32, 4):
        row, pair = lane // 4, 2 * (lane % 4)
        line = 7 - row if matrix % 2 else row
        expected = 256 * warp + 64 * matrix + 8 * line + pair
        assert list(found[warp, lane, matrix]) == [expected, expected + 1]


@cuda.jit
def _multiply(a, b, c, out):
    """Lanes take what the documentation says is theirs, from pairs of float16 seen as uint32."""
    lane = cuda.threadIdx.x
    row, pair = lane // 4, 2 * (lane % 4)
    half = lane % 4
    a0, a1, a2, a3 = a[row, half], a[row + 8, half], a[row, half + 4], a[row + 8, half + 4]
    b0, b1 = b[row, half], b[row, half + 4]
    c0, c1, c2, c3 = c[row, pair], c[row, pair + 1], c[row + 8, pair], c[row + 8, pair + 1]
    found = multiply_matrices(a0, a1, a2, a3, b0, b1, c0, c1, c2, c3)
    out[row, pair], out[row, pair + 1], out[row + 8, pair], out[row + 8, pair + 1] = found


@on_devices
def test_multiply_is_a_matrix_product_with_float32_sums(device):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((16, 16)).astype(np.float16), rng.standard_normal((16, 8)).astype(np.float16)
    c = 3000 * rng.standard_normal((16, 8), np.float32)  # float16 would lose the product
    pairs = [a.view(np.uint32), np.ascontiguousarray(b.T).view(np.uint32)]
    *_, found = launch(_multiply, 32, *pairs, c, np.zeros_like(c))
    exact = a.astype(np.float64) @ b.astype(np.float64) + c
    assert np.abs(found - exact).max() < 2e-3


@cuda.jit
def _store(numbers, out, turned):
    """Each thread stores a pair and leaves a gap after it; the pair turned round goes through shared memory."""
    pieces = cuda.shared.array(8, PIECE)
    thread = cuda.threadIdx.x
    store_pair(out, 4 * thread, numbers[thread, 0], numbers[thread, 1])
    store_pair(pieces, 2 * thread, numbers[thread, 1], numbers[thread, 0])
    cuda.syncthreads()
    if thread < 8:
        turned[thread] = pieces[thread]


@on_devices
def test_store_rounds_a_pair_to_half_precision(device):
    rng = np.random.default_rng(0)
    numbers = (10 ** rng.uniform(-9, 6, (32, 2))).astype(np.float32)
    with np.errstate(over="ignore"):
        _, found, turned = launch(_store, 32, numbers, np.full((32, 4), 7, np.float16), np.zeros(8, PIECE))
        expected = numbers.astype(np.float16)
    assert np.isinf(expected).any() and (expected == 0).any(), "too large and too small ones are among them"
    assert np.array_equal(found[:, :2], expected) and (found[:, 2:] == 7).all()
    assert np.array_equal(turned.view(np.float16).reshape(32, 2), expected[:, ::-1])


@cuda.jit
def _activate(numbers, scale, shift, out):
    """A pair to a thread."""
    thread = cuda.threadIdx.x
    out[thread] = activate_pair(numbers[thread], scale[thread], shift[thread])


@on_devices
def test_activate_scales_shifts_and_cuts_a_pair(device):
    numbers, scale, shift = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float16)
    words = [array.view(np.uint32) for array in (numbers, scale, shift)]
    *_, found = launch(_activate, 32, *words, np.zeros(32, np.uint32))
    exact = np.maximum(numbers.astype(np.float64) * scale + shift, 0)
    assert (exact == 0).any() and np.array_equal(found.view(np.float16), exact.astype(np.float16))
