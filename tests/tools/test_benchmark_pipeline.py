"""`python -m tools.benchmark pipeline`: the record that the README's table is written from."""

from types import SimpleNamespace

import numpy as np
import pytest

from detector.profile.meter import MODES
from detector.sources import Source
from tests.profile_measurement import make_measurement
from tools.benchmark import docs
from tools.benchmark.pipeline import make_record, record_table, spread


def test_the_record_is_what_the_page_reads(monkeypatch):
    measured = make_measurement(frames=20, loop=3)
    turns = {mode: [samples[:20], samples[20:40], samples[40:]] for mode, samples in measured.samples.items()}
    record = make_record(turns, measured.facts, 100.0, measured.origin)
    assert set(record["modes"]) == set(MODES) and record["turns"] == 3 and record["device"] == "cpu"
    means = {mode: [np.mean([sample.total_ms for sample in turn]) for turn in lists] for mode, lists in turns.items()}
    ratio = np.median(np.array(means["dense"]) / means["sparse"])
    assert record["speedup"]["sparse"]["total"] == pytest.approx(ratio)
    assert record["facts"]["sparse"]["frames"] == 20 and record["facts"]["tiles_all"]["tile_fraction"] == 1
    assert record_table(record).row_count == 9
    versions = {**record["versions"], "onnxruntime": "1"}
    monkeypatch.setattr(docs, "read_record", lambda name: {**record, "versions": versions})
    assert "20 frames, 3 turns" in docs.latency_rows()


@pytest.mark.parametrize(("count", "wanted"), [(1, [0]), (3, [0, 4, 9]), (10, list(range(10))), (99, list(range(10)))])
def test_frames_are_spread_over_all_recordings(count, wanted):
    frames = [SimpleNamespace(number=number) for number in range(10)]
    sources = [Source("a", None, "files", tuple(frames[:4])), Source("b", None, "files", tuple(frames[4:]))]
    assert [frame.number for source in spread(sources, count) for frame in source.frames] == wanted
