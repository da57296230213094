"""Two samples and how far apart they are: Kolmogorov and Smirnov's statistic, on values with weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]

DRAWS = 100  # ways to halve the real frames
HIGH = 0.95  # this share of the halves is no farther apart than the floor's upper end


class Sample(NamedTuple):
    """Values and how often each was seen: (K,) float64 both, in any order; K may be 0."""

    values: Float64
    weights: Float64

    @classmethod
    def of(cls, values: ArrayLike, step: float | None = None) -> Sample:
        """The sample of some numbers, rounded to multiples of ``step``, which keeps millions of points small."""
        numbers = np.asarray(values, np.float64).ravel()
        if step is not None:
            numbers = np.round(numbers / step) * step
        distinct, count = np.unique(numbers, return_counts=True)
        return cls(distinct, count.astype(np.float64))

    @classmethod
    def pool(cls, samples: Sequence[Sample]) -> Sample:
        """All values of some samples."""
        values, weights = (np.concatenate([np.zeros(0), *(sample[part] for sample in samples)]) for part in (0, 1))
        return cls(values, weights)

    def quantile(self, share: float) -> float:
        """The least value that at least this share of all values does not exceed; NaN of an empty sample."""
        if not len(self.values):
            return float("nan")
        order = np.argsort(self.values, kind="stable")
        reached = np.cumsum(self.weights[order])
        return float(self.values[order][np.searchsorted(reached, share * reached[-1])])


class Gap(NamedTuple):
    """Where two samples are farthest apart.

    Attributes:
        distance: Kolmogorov and Smirnov's statistic, 0 to 1; NaN if a sample is empty.
        at: the value where it is reached.
        shares: of the first and of the second sample, how many of their values do not exceed ``at``.
    """

    distance: float
    at: float
    shares: tuple[float, float]


def widest_gap(first: Sample, second: Sample) -> Gap:
    """Kolmogorov and Smirnov's two-sample statistic: the widest gap between two cumulative distributions."""
    if not len(first.values) or not len(second.values):
        return Gap(float("nan"), float("nan"), (float("nan"), float("nan")))
    at = np.unique(np.concatenate([first.values, second.values]))
    shares = [_share_up_to(sample, at) for sample in (first, second)]
    widest = int(np.argmax(np.abs(shares[0] - shares[1])))
    here = float(shares[0][widest]), float(shares[1][widest])
    return Gap(abs(here[0] - here[1]), float(at[widest]), here)


def _share_up_to(sample: Sample, at: Float64) -> Float64:
    """(K,) float64: the share of the sample that does not exceed each of ``at`` (K,)."""
    order = np.argsort(sample.values, kind="stable")
    reached = np.concatenate([[0.0], np.cumsum(sample.weights[order])])
    share: Float64 = reached[np.searchsorted(sample.values[order], at, side="right")] / reached[-1]
    return share


def draw_half(groups: Sequence[str], rng: np.random.Generator) -> NDArray[np.bool_]:
    """(F,) bool: about half of the frames, all frames of a group together.

    Frames of one drive look alike; halves that share drives would be closer than two recordings ever are.
    """
    names, member = np.unique(groups, return_inverse=True)
    order = rng.permutation(len(names))
    size = np.bincount(member)[order]
    middle = np.cumsum(size) - size / 2
    chosen = np.zeros(len(names), bool)
    chosen[order[middle < size.sum() / 2]] = True
    half: NDArray[np.bool_] = chosen[member]
    return half


def real_floor(samples: Sequence[Sample], halves: Sequence[NDArray[np.bool_]]) -> tuple[float, float]:
    """What a perfect simulator would reach: the distance between two halves of the real frames.

    Args:
        samples: of every frame.
        halves: (F,) bool each, which frames are in the first half; see `draw_half`.

    Returns:
        The median over the halves, and their upper end (`HIGH`); NaN where no two halves hold a value.
    """
    values = np.unique(Sample.pool(samples).values)
    counts = np.zeros((len(samples), len(values)))
    for row, sample in zip(counts, samples, strict=True):
        np.add.at(row, np.searchsorted(values, sample.values), sample.weights)
    reached = np.cumsum([chosen.astype(np.float64) @ counts for half in halves for chosen in (half, ~half)], axis=1)
    reached = reached[(reached[:, -1:] > 0).reshape(-1, 2).all(axis=1).repeat(2)] if len(values) else reached[:0]
    if not len(reached):
        return float("nan"), float("nan")
    shares = reached / reached[:, -1:]
    distances = np.abs(shares[::2] - shares[1::2]).max(axis=1)
    return float(np.median(distances)), float(np.quantile(distances, HIGH))
