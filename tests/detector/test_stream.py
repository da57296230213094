"""`Pipeline.stream`: the results of `detect`, in order, whatever the threads do; nothing lost or everything counted."""

import logging
import math
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import detector.stream
from detector import Config, Frame, Pipeline, open_sources
from detector.arrivals import Arrival, SourceClock
from detector.errors import ConfigError, FrameError, RoadblocksError, SourceError
from detector.stages import STAGES, Stage
from detector.stream import stream_frames
from tests.tiny_network import SPEC, patch_points, write_model

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60  # of waits that a correct stream ends at once
PATCHES = [(row, col) for row in range(2) for col in range(3)]


def points_of(patches):
    return np.concatenate([np.zeros((0, 4), np.float32), *(patch_points(*patch) for patch in patches)])


def content(result):
    return result.detections.boxes.tobytes(), result.detections.scores.tobytes(), result.tiles_run


def workers():
    return [thread for thread in threading.enumerate() if thread.name == "roadblocks-prepare"]


@pytest.fixture(scope="module")
def own_pipeline(tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp("network") / "tiny.onnx")
    return Pipeline(Config(model=str(path), device="cpu"))


@pytest.fixture
def pipeline(own_pipeline, monkeypatch):
    """The tiny pipeline; a test may replace its network. Afterwards no worker is left."""
    monkeypatch.setattr(own_pipeline, "_executor", own_pipeline._executor)
    yield own_pipeline
    assert not workers()


class SlowNetwork:
    """Runs ``meanwhile(number)`` before the network of every frame, as if it took that long."""

    def __init__(self, pipeline, meanwhile):
        self._network, self._meanwhile, self._number = pipeline._executor, meanwhile, 0

    def run(self, grid, tiles):
        self._number += 1
        before = grid.copy(), tiles.index.copy()
        self._meanwhile(self._number - 1)
        np.testing.assert_array_equal(grid, before[0], err_msg="the next frame wrote into the grid in use")
        np.testing.assert_array_equal(tiles.index, before[1], err_msg="the next frame wrote into the tiles in use")
        return self._network.run(grid, tiles)


@settings(max_examples=15)
@given(frames=st.lists(st.lists(st.sampled_from(PATCHES), unique=True), max_size=7))
def test_results_are_those_of_detect(own_pipeline, frames):
    points = [points_of(patches) for patches in frames]
    alone = [content(own_pipeline.detect(each)) for each in points]
    streamed = list(own_pipeline.stream(points))
    assert [content(result) for result in streamed] == alone
    assert [result.frame_id for result in streamed] == [str(number) for number in range(len(frames))]
    assert all(result.dropped_before == 0 and result.latency_ms > 0 for result in streamed)


def test_results_on_real_sweeps_are_those_of_detect(shared):
    pipeline = Pipeline.from_config("kitti")
    drive = shared / "kitti_raw"
    alone = [content(pipeline.detect(file.load())) for file in open_sources([drive], slice(3))[0].frames]
    assert [content(result) for result in pipeline.stream(drive, frames=slice(3), loop=2)] == alone * 2


def test_latest_drops_what_is_late_and_counts_it(pipeline, monkeypatch):
    sizes = [1, 3, 1, 5, 2, 1]  # frames that arrive while the network is busy with the newest of the group before
    points = [points_of([PATCHES[number % 6]]) for number in range(sum(sizes))]
    allowed, prepared = ([threading.Event() for _ in sizes] for _ in range(2))

    def source():
        frames = iter(points)
        for group, size in enumerate(sizes):
            assert allowed[group].wait(TIMEOUT_S)
            yield from (next(frames) for _ in range(size))
            prepared[group].set()  # asked for another one: the last of the group is ready

    def meanwhile(number):
        if number + 1 < len(sizes):
            allowed[number + 1].set()
            assert prepared[number + 1].wait(TIMEOUT_S)

    monkeypatch.setattr(pipeline, "_executor", SlowNetwork(pipeline, meanwhile))
    allowed[0].set()
    results = list(pipeline.stream(source(), policy="latest"))
    newest = np.cumsum(sizes) - 1
    assert [result.frame_id for result in results] == [str(number) for number in newest]
    assert [result.dropped_before for result in results] == [size - 1 for size in sizes]
    assert [content(result) for result in results] == [content(pipeline.detect(points[n])) for n in newest]


def test_every_loads_ahead_but_never_more_than_it_has_buffers_for(pipeline, monkeypatch):
    asked, done, ahead = [threading.Event() for _ in range(9)], [], []

    def source():
        for number in range(8):
            ahead.append(number + 1 - len(done))
            asked[number].set()
            yield points_of([PATCHES[number % 6]])
        asked[8].set()

    # The network of a frame ends only when the next frame is being loaded: without overlap this would wait for ever.
    slow = SlowNetwork(pipeline, lambda number: asked[number + 1].wait(TIMEOUT_S) or pytest.fail("no overlap"))
    monkeypatch.setattr(pipeline, "_executor", slow)
    for result in pipeline.stream(source()):
        done.append(result)
    assert len(done) == 8
    # Beside those in the buffers: one whose boxes are being decoded, and one that is loaded and waits for buffers.
    assert 1 < max(ahead) <= detector.stream.BUFFERS["every"] + 2


@pytest.mark.parametrize(
    ("come", "order"),
    [
        ("in time", "start 0, start 1, end 0, start 2, end 1, end 2"),
        ("late", "start 0, end 0, start 1, end 1, start 2, end 2"),
    ],
)
def test_a_gpu_has_the_next_frame_before_this_one_is_waited_for(pipeline, monkeypatch, come, order):
    """If it is there; a result never waits for a frame that is not."""
    told, handover = [], detector.stream._Handover

    def start(frame, *rest):
        number = len([line for line in told if "start" in line])
        told.append(f"start {number}")
        finish = Pipeline.start(pipeline, frame, *rest)
        return lambda: (told.append(f"end {number}"), finish())[1]

    def wait_for_frames(self):
        with self._changed:
            assert self._changed.wait_for(lambda: self._ready or self._ended, TIMEOUT_S)
            return come == "in time" and bool(self._ready)

    def source():
        yield from (patch_points(*patch) for patch in PATCHES[:3])
        raise ValueError("unplugged")

    monkeypatch.setattr(pipeline, "start", start)
    monkeypatch.setattr(Pipeline, "frames_ahead", 1)
    monkeypatch.setattr(handover, "has_frames", wait_for_frames)
    found = []
    with pytest.raises(ValueError, match="unplugged"):
        found.extend(content(result) for result in pipeline.stream(source()))
    assert ", ".join(told) == order
    assert found == [content(pipeline.detect(patch_points(*patch))) for patch in PATCHES[:3]]


@pytest.mark.parametrize("policy", ["every", "latest"])
def test_an_error_of_the_source_comes_after_the_frames_before_it(pipeline, policy):
    taken = threading.Semaphore(0)

    def source():
        for _ in range(3):
            yield patch_points()
            assert taken.acquire(timeout=TIMEOUT_S)
        raise OSError("the sensor's plug was pulled")

    results = []
    with pytest.raises(OSError, match="plug"):
        for result in pipeline.stream(source(), policy=policy):
            results.append(result.frame_id)
            taken.release()
    assert results == ["0", "1", "2"]


def test_bad_frames_end_the_stream_or_are_told_and_skipped(pipeline, tmp_path):
    frames = [patch_points(), np.zeros((3, 3), np.float32), patch_points()]
    results = pipeline.stream(frames)
    assert next(results).frame_id == "0"
    with pytest.raises(FrameError, match=r"frame 1: points are shape \(3, 3\)"):
        next(results)
    told = []
    assert [result.frame_id for result in pipeline.stream(frames, on_bad_frame=lambda *bad: told.append(bad))] == [
        "0",
        "2",
    ]
    ((error, dropped),) = told
    assert isinstance(error, FrameError) and dropped == 0


def test_closing_early_ends_the_worker_and_the_source(pipeline):
    ended = threading.Event()

    def source():
        try:
            while True:
                yield patch_points()
        finally:
            ended.set()

    results = pipeline.stream(source())
    assert next(results).frame_id == "0" and len(workers()) == 1
    results.close()
    assert not workers() and ended.is_set()
    for _ in pipeline.stream([patch_points()] * 9):
        break
    assert not workers()


def test_closing_ends_a_worker_that_waits_for_buffers(pipeline):
    last_loaded = threading.Event()

    def last():
        last_loaded.set()
        return Frame(patch_points())

    ahead = detector.stream.BUFFERS["every"]
    loads = [*(partial(Frame, patch_points()) for _ in range(1 + ahead)), last]
    results = stream_frames(pipeline, (Arrival(load, 0.0) for load in loads), SourceClock())
    next(results)
    assert last_loaded.wait(TIMEOUT_S)  # those between the first and this one lie in the buffers
    results.close()
    assert not workers()


def test_latest_prepares_nothing_that_is_overtaken_while_the_network_runs(pipeline, monkeypatch):
    prepare, prepared, running, overtaken = pipeline.prepare, [], threading.Event(), threading.Event()

    def watched(frame, clock=None, buffers=None):
        if len(frame.points):  # the stream makes its buffers with none
            prepared.append(frame.id)
        return prepare(frame, clock, buffers)

    def source():
        yield Frame(patch_points(), id="a")
        assert running.wait(TIMEOUT_S)
        yield from (Frame(patch_points(), id=name) for name in "bcd")
        overtaken.set()

    def meanwhile(number):
        running.set()
        assert overtaken.wait(TIMEOUT_S)

    monkeypatch.setattr(pipeline, "prepare", watched)
    monkeypatch.setattr(pipeline, "_executor", SlowNetwork(pipeline, meanwhile))
    results = list(pipeline.stream(source(), policy="latest"))
    assert [result.frame_id for result in results] == prepared == ["a", "d"]
    assert [result.dropped_before for result in results] == [0, 2]


def test_a_second_thread_is_refused_while_the_caller_s_thread_prepares(pipeline, monkeypatch):
    prepare, running, overtaken, refused = pipeline.prepare, threading.Event(), threading.Event(), []

    def source():
        yield Frame(points_of(PATCHES[:1]), id="a")
        assert running.wait(TIMEOUT_S)
        yield Frame(points_of(PATCHES), id="b")
        overtaken.set()

    def meanwhile(number):
        running.set()
        assert overtaken.wait(TIMEOUT_S)

    def watched(frame, clock=None, buffers=None):
        prepared = prepare(frame, clock, buffers)
        if frame.id == "b":  # in the buffers that `detect` of another thread would take
            with ThreadPoolExecutor(1) as other:
                refused.append(other.submit(pipeline.detect, patch_points()).exception(TIMEOUT_S))
        return prepared

    monkeypatch.setattr(pipeline, "prepare", watched)
    monkeypatch.setattr(pipeline, "_executor", SlowNetwork(pipeline, meanwhile))
    assert [len(result.detections) for result in pipeline.stream(source(), policy="latest")] == [1, len(PATCHES)]
    assert "one pipeline per thread" in str(refused)


def test_what_was_dropped_before_a_bad_frame_is_told_with_it(pipeline):
    loads = [partial(Frame, points) for points in (np.zeros((1, 3), np.float32), patch_points(), patch_points())]
    arrivals = [Arrival(load, 0.0, dropped) for load, dropped in zip(loads, (2, 1, 0), strict=True)]
    told = []
    results = stream_frames(
        pipeline, iter(arrivals), SourceClock(), on_bad_frame=lambda _, dropped: told.append(dropped)
    )
    assert ([result.dropped_before for result in results], told) == ([1, 0], [2])


def test_an_unused_stream_starts_nothing(pipeline):
    pipeline.stream([patch_points()]).close()
    assert not workers()


def test_closing_ends_a_wait_for_the_next_frame(pipeline, tmp_path):
    for name in "ab":
        patch_points().tofile(tmp_path / f"{name}.bin")
    results = pipeline.stream(tmp_path, rate_hz=1e-3)  # the next one would come in a quarter of an hour
    assert next(results).frame_id == "a"
    results.close()
    assert not workers()


def test_a_source_that_blocks_is_left_behind_with_a_warning(pipeline, monkeypatch, caplog):
    unplugged = threading.Event()

    def source():
        yield patch_points()
        unplugged.wait(TIMEOUT_S)

    monkeypatch.setattr(detector.stream, "JOIN_S", 0.01)
    results = pipeline.stream(source())
    next(results)
    with caplog.at_level(logging.WARNING, "roadblocks"):
        results.close()
    assert "its thread ends with that frame" in caplog.text
    (left,) = workers()
    unplugged.set()
    left.join(TIMEOUT_S)


@pytest.mark.parametrize(
    "call", [lambda pipeline: pipeline.detect(patch_points()), lambda p: list(p.stream([patch_points()]))]
)
def test_a_second_thread_is_refused(pipeline, monkeypatch, call):
    running, go_on = threading.Event(), threading.Event()
    slow = SlowNetwork(pipeline, lambda number: (running.set(), go_on.wait(TIMEOUT_S)))
    monkeypatch.setattr(pipeline, "_executor", slow)
    with ThreadPoolExecutor(1) as other:
        result = other.submit(pipeline.detect, patch_points())
        assert running.wait(TIMEOUT_S)
        with pytest.raises(RoadblocksError, match="one pipeline per thread"):
            call(pipeline)
        go_on.set()
        assert len(result.result(TIMEOUT_S).detections) == 1
    assert len(pipeline.detect(patch_points()).detections) == 1, "free again"


def test_between_results_the_pipeline_is_free(pipeline):
    sets = [[points_of([patch]) for patch in PATCHES], [points_of([patch]) for patch in reversed(PATCHES)]]
    alone = [[content(pipeline.detect(points)) for points in each] for each in sets]
    both = ([], [])
    for one, other in zip(*(pipeline.stream(each) for each in sets), strict=True):
        assert len(pipeline.detect(points_of(PATCHES)).detections) == len(PATCHES)
        both[0].append(content(one))
        both[1].append(content(other))
    assert list(both) == alone


def test_stages_latency_and_paths_among_the_frames(pipeline, tmp_path):
    patch_points().tofile(tmp_path / "a.bin")
    results = list(pipeline.stream([tmp_path / "a.bin", str(tmp_path), Frame(patch_points()[:0], id="f", stamp_ns=7)]))
    assert [result.frame_id for result in results] == ["a", "a", "f"]
    assert results[2].frame.stamp_ns == 7
    expected = [row.stage.value for row in STAGES if row.stage != Stage.WRITE]
    assert all(list(result.stage_ms) == expected for result in results)
    assert all(result.latency_ms >= result.stage_ms["backbone"] for result in results)
    with pytest.raises(SourceError, match="does not exist"):
        list(pipeline.stream([tmp_path / "missing.bin"]))


def test_follow_waits_for_files(pipeline, tmp_path):
    results = pipeline.stream(tmp_path, follow=True)
    for name in ("a", "b"):
        part = tmp_path / f"{name}.part"
        patch_points().tofile(part)
        part.rename(tmp_path / f"{name}.bin")
        result = next(results)
        assert (result.frame_id, len(result.detections)) == (name, 1)
    results.close()
    assert not workers()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"policy": "newest"}, "policy is 'newest', expected one of: every, latest"),
        ({"rate_hz": 0}, "rate_hz is 0, expected more than 0"),
        ({"rate_hz": math.nan}, "rate_hz is nan"),
        ({"loop": 0}, "loop is 0"),
        ({"policy": "latest"}, "have no times; expected a rate"),
        ({"policy": "latest", "rate_hz": math.inf}, "are all there at once; expected a rate"),
        ({"follow": True, "loop": 2}, "follow: expected a folder, and neither"),
        ({"follow": True, "frames": slice(2)}, "follow: expected a folder, and neither"),
        ({"source": [], "follow": True}, "follow: expected a folder"),
        ({"source": [], "frames": slice(2)}, "frames: chooses from the files of a path"),
        ({"source": iter([]), "loop": 2}, "loop is 2 for a list_iterator"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_once(pipeline, tmp_path, arguments, words):
    patch_points().tofile(tmp_path / "a.bin")
    with pytest.raises(ConfigError, match=words):
        pipeline.stream(**{"source": tmp_path, **arguments})


WORKQUEUE = """
import sys, numba, numpy as np
import detector.pipeline as module
from tests.tiny_network import patch_points
real, module.make_executor = module.make_executor, lambda *settings: type("None", (), {"device": "cpu"})
config = module.Config(model=sys.argv[1], device="cpu")
module.Pipeline(config).prepare(module.Frame(patch_points()))
try:
    sys.exit(f"the worker's half launched a kernel on several threads: {numba.threading_layer()}")
except ValueError:
    module.make_executor = real
results = list(module.Pipeline(config).stream([patch_points()] * 30))
print(numba.threading_layer(), sum(len(result.detections) for result in results))
"""


def test_only_the_caller_s_thread_launches_kernels_on_several_threads(tmp_path):
    """Numba's layer `workqueue` ends the process when two threads launch; it must be safe there."""
    environment = {**os.environ, "NUMBA_THREADING_LAYER": "workqueue", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WORKQUEUE, str(write_model(tmp_path / "tiny.onnx"))]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "workqueue 30\n"), done.stderr


def test_the_next_frame_of_another_size_leaves_the_first_alone(pipeline, monkeypatch):
    """Points beyond the grid, none, many: buffers grow and shrink while another frame is in the network."""
    far = np.full((5000, 4), [SPEC.x_max_m + 5, 0, -1, 0.5], np.float32)
    points = [patch_points(), np.concatenate([far, points_of(PATCHES)]), far[:0], points_of(PATCHES[:3]), far]
    alone = [content(pipeline.detect(each)) for each in points]
    monkeypatch.setattr(pipeline, "_executor", SlowNetwork(pipeline, lambda number: None))
    assert [content(result) for result in pipeline.stream(points * 3)] == alone * 3
