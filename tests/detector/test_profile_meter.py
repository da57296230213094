"""What a profile measures, in its own process and in turns: spans, warm-up, modes, processes that fail."""

import os
import signal
import time

import pytest

from detector.errors import RoadblocksError
from detector.profile import meter, workers
from detector.profile.meter import MODES, WARM_UP_FRAMES, Meter, SpanClock
from detector.profile.workers import Worker, take_turns
from detector.sources import open_sources
from detector.stages import Stage
from tests.profile_measurement import write_frames

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("drive"), 7)


@pytest.fixture
def files(drive):
    return open_sources([drive])[0].frames


def test_what_takes_longer_is_measured_as_longer(drive, files, monkeypatch):
    real = meter.Pipeline.prepare

    def slow(self, frame, clock=None, *more):
        time.sleep(0.003)  # outside of any stage
        with clock(Stage.MASK):
            time.sleep(0.005)
        return real(self, frame, clock, *more)

    made = Meter("sparse", files, {"config": drive / "tiny.yaml"})
    monkeypatch.setattr(meter.Pipeline, "prepare", slow)
    samples = made.turn([2, 0])
    assert [sample.index for sample in samples] == [2, 0]
    for sample in samples:
        assert 5 <= sample.stage_ms["mask"] < 100 and sample.total_ms == sum(sample.stage_ms.values())
        mask = next(span for span in sample.spans if span.stage == "mask")
        voxelize = next(span for span in sample.spans if span.stage == "voxelize")
        assert mask.end_ns - mask.start_ns >= 5e6 and mask.end_ns <= voxelize.start_ns
        assert mask.start_ns - sample.spans[0].end_ns >= 3e6, "the gap is where it was"


def test_warm_up_repeats_and_removes_nothing(drive, files, monkeypatch):
    ran = []
    real = meter.Meter._sample
    monkeypatch.setattr(meter.Meter, "_sample", lambda self, index: ran.append(index) or real(self, index))
    made = Meter("dense", files, {"config": drive / "tiny.yaml"})
    assert ran == list(range(WARM_UP_FRAMES)) and made.facts().warmed == WARM_UP_FRAMES
    ran.clear()
    assert [sample.index for sample in made.turn([3, 4])] == [3, 4] and ran == [3, 3, 4]
    assert Meter("tiles_all", files[:2], {"config": drive / "tiny.yaml"}).facts().warmed == 2


def test_modes(drive, files):
    configs = {mode: Meter(mode, files[:1], {"config": drive / "tiny.yaml"}).facts() for mode in MODES}
    assert [facts.config["execution"] for facts in configs.values()] == ["sparse", "dense", "sparse"]
    assert configs["tiles_all"].config["mask"]["source"] == "all" and configs["tiles_all"].computed_fraction == 1
    assert configs["dense"].gflop is None and configs["sparse"].gflop > 0


def test_the_clock_notes_its_thread_and_survives_errors():
    clock = SpanClock()
    with pytest.raises(ValueError, match="inside"), clock(Stage.NMS):
        raise ValueError("inside")
    with clock(Stage.MASK):
        pass
    assert [span.stage for span in clock.spans] == ["mask"] and "nms" in clock.elapsed_ms
    assert clock.spans[0].thread == "MainThread" and clock.spans[0].thread_id == os.getpid()


def test_turns_change_who_begins(monkeypatch):
    monkeypatch.setattr(workers, "PAUSE_S", 0)
    asked = []

    class Fake:
        def __init__(self, name):
            self.name = name

        def ask(self, request, batch):
            asked.append((self.name, request, list(batch)))
            return [self.name] * len(batch)

    counts = []
    turns = take_turns({"a": Fake("a"), "b": Fake("b")}, [range(2), range(2, 5)], counts.append)
    assert asked == [("a", "turn", [0, 1]), ("b", "turn", [0, 1]), ("b", "turn", [2, 3, 4]), ("a", "turn", [2, 3, 4])]
    assert turns == {"a": [["a"] * 2, ["a"] * 3], "b": [["b"] * 2, ["b"] * 3]} and sum(counts) == 10


def test_what_goes_wrong_in_a_process_is_told(drive, files):
    broken = Worker("sparse", files, {"config": "nosuch"})
    killed = Worker("sparse", files, {"config": drive / "tiny.yaml"})
    with pytest.raises(RoadblocksError, match="nosuch: no such configuration"):
        _ = broken.facts
    os.kill(killed.facts.pid, signal.SIGKILL)
    with pytest.raises(RoadblocksError, match="process of mode sparse ended with code -9"):
        killed.ask("turn", [0])
    for worker in (broken, killed):
        worker.close()
