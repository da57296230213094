"""Every reader of foreign files, fed with seeds, with what fuzzing once found, and with mutations of both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.targets import CORPUS, TARGETS, check

SEEDS = {target: {path.name: path.read_bytes() for path in sorted((CORPUS / target).iterdir())} for target in TARGETS}
GOOD = {
    "frame": {"points", "none", "bytes", "holes"},
    "calibration": {"object", "tracking", "raw"},
    "label": {"car", "scored", "two", "none", "marked"},
    "config": {"empty", "full"},
    "network": {"tiny", "residual", "everything", "constant"},
}
# What breaks parsers: ends of numbers, of lines, of encodings.
PIECES = [
    b"\0",
    b"\xff" * 8,
    b"nan",
    b"1e999",
    b"-1",
    b"9" * 5000,
    b"\n",
    b"[" * 300,
    b": ",
    b"&a ",
    b"*a",
    b"\xef\xbb\xbf",
]


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_findings(target: str) -> None:
    taken = {name for name, data in SEEDS[target].items() if check(target, data)}
    assert taken & set(GOOD[target]) == GOOD[target]


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed with a few bytes cut out, doubled, replaced, or put in."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([0, 1, 1, 4, 40, 400])))
        middle = draw(st.one_of(st.binary(max_size=8), st.sampled_from(PIECES), st.just(data[start:stop] * 2)))
        data = data[:start] + middle + data[stop:]
    return data


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.data())
@pytest.mark.filterwarnings("error")
def test_mutations_succeed_or_are_one_line(target: str, data: st.DataObject) -> None:
    assert check(target, data.draw(mutated(list(SEEDS[target].values())))) in (True, False)
