"""Numba's CUDA simulator with a scheduler of its own: the lanes of a block take turns.

Numba makes a thread for every lane, lets them run side by side, and asks all of them over and over whether they wait
at a barrier, which takes most of its time. Here a lane runs until it waits or ends, and only then does the next one go
on. This is several times as fast, and gives the same result every time. In which order lanes go on is drawn anew at
every barrier, so that a barrier that is missing shows. What it cannot show is a number that two lanes change at once
without an atomic: between two barriers nobody interrupts a lane.
"""

from __future__ import annotations

import functools
import random
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.cuda.simulator.kernel import BlockManager, BlockThread, Dim3
from numba.cuda.simulator.kernelapi import FakeCUDAShared

import kernels.ptx


@functools.cache
def install() -> None:
    """Puts the scheduler in the place of Numba's."""
    BlockManager.run = lambda manager, block_idx, *arguments: _Block(manager, block_idx, arguments).run()
    FakeCUDAShared.array = functools.partialmethod(_shared_array, FakeCUDAShared.array)
    kernels.ptx._Warp = _Warp


def _shared_array(shared: FakeCUDAShared, dynamic: Callable[..., Any], shape: Any, dtype: Any) -> Any:
    """A block's shared array of a line of code, found without the whole stack of calls."""
    if shape == 0:  # the array whose size the launch gives; it is there from the start
        return dynamic(shared, shape, dtype)
    caller = sys._getframe(1)
    place = caller.f_code.co_filename, caller.f_lineno
    if place not in shared._allocations:
        shared._allocations[place] = np.empty(shape, dtype)
    return shared._allocations[place]


class _StoppedError(Exception):
    """Ends a lane because another one has failed."""


class _Block:
    """A block on its way, one lane at a time.

    Attributes:
        lanes: numbers of those that have not begun.
        ready: lanes that may go on.
        at_barrier: lanes that wait for all others.
        waiting: all that have begun and neither run nor are over.
        error: of the first lane that failed.
    """

    def __init__(self, manager: BlockManager, block_idx: Any, arguments: Any) -> None:
        self.call = functools.partial(manager._f, *arguments)
        self.block_idx, self._block_dim = Dim3(*block_idx), manager._block_dim
        self.block_state = manager.block_state
        self._order = random.Random(0)
        self.lanes = self._shuffled(np.ndindex(*self._block_dim))
        self.ready: list[_Lane] = []
        self.at_barrier: list[_Lane] = []
        self.waiting: set[_Lane] = set()
        self.error: BaseException | None = None
        self._over = threading.Semaphore(0)

    def run(self) -> None:
        """All lanes; raises the error of the first that fails."""
        self.go_on()
        self._over.acquire()
        if self.error is not None:
            raise self.error

    def go_on(self) -> None:
        """Another lane's turn, as this one's is over."""
        lane = self._next()
        if lane is None:
            self._over.release()
        else:
            self.waiting.discard(lane)
            lane.turn.release()

    def wait(self, lane: _Lane) -> None:
        """Until it is the lane's turn again."""
        self.waiting.add(lane)
        self.go_on()
        lane.turn.acquire()
        if self.error is not None:
            raise _StoppedError

    def _next(self) -> _Lane | None:
        if self.error is not None:
            return next(iter(self.waiting), None)
        if not self.ready and not self.lanes and len(self.at_barrier) == len(self.waiting):
            self.ready, self.at_barrier = self._shuffled(self.at_barrier), []
        if self.ready:
            return self.ready.pop()
        if self.lanes:
            return _Lane.of(self)
        if self.waiting:
            self.error = RuntimeError(f"{len(self.at_barrier)} of {len(self.waiting)} lanes are at the barrier")
        return next(iter(self.waiting), None)

    def _shuffled(self, some: Any) -> list[Any]:
        found = list(some)
        self._order.shuffle(found)
        return found


class _Lane(BlockThread):
    """A thread that plays lanes, one after the other, of any block; kernels ask it where they are.

    Attributes:
        turn: given when it is its turn.
    """

    _idle: list[_Lane] = []  # noqa: RUF012

    def __init__(self) -> None:
        threading.Thread.__init__(self, daemon=True)
        self.turn = threading.Semaphore(0)
        self.start()

    @classmethod
    def of(cls, block: _Block) -> _Lane:
        """One that plays lanes of the block."""
        lane = cls._idle.pop() if cls._idle else cls()
        lane._manager = block
        return lane

    def run(self) -> None:
        """Plays what has not begun, whenever it is its turn."""
        while True:
            self.turn.acquire()
            block = self._manager
            while block.lanes and block.error is None:
                self._begin(block)
                try:
                    block.call()
                except _StoppedError:
                    pass
                except BaseException as error:
                    error.add_note(f"in lane {tuple(self.threadIdx)} of block {tuple(block.block_idx)}")
                    block.error = block.error or error
            self._idle.append(self)
            block.go_on()

    def _begin(self, block: _Block) -> None:
        self.blockIdx, self.threadIdx = block.block_idx, Dim3(*block.lanes.pop())
        across, down, _ = block._block_dim
        self.thread_id = self.threadIdx.x + across * (self.threadIdx.y + down * self.threadIdx.z)
        self.__dict__.pop("copies", None)  # of the lane before; see `kernels.ptx`

    def syncthreads(self) -> None:
        """Waits for all lanes that are not over."""
        block = self._manager
        block.at_barrier.append(self)
        block.wait(self)


class _Warp(kernels.ptx._Warp):
    """A warp whose lanes hand on while they wait for one another."""

    def __init__(self) -> None:
        super().__init__()
        self._meeting, self._there = self, []

    def wait(self, _timeout_s: float) -> None:
        """Until all 32 are here."""
        lane: Any = threading.current_thread()
        self._there.append(lane)
        if len(self._there) < len(self._given):
            lane._manager.wait(lane)
        else:
            self._run()
            lane._manager.ready += self._there[:-1]
            self._there = []
