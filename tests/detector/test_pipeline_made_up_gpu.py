"""What a pipeline asks of a GPU, frame after frame: nothing new, nothing on the default stream, no time read too late.

The GPU is made up (`tests.made_up_gpu`): numba-cuda's own code runs, kernels do nothing but take their time.
"""

import threading
from dataclasses import replace

import numpy as np
import pytest

from detector import Config, Frame, Pipeline
from detector.config import BudgetConfig, MaskConfig
from detector.profile.meter import GPU_TRACK, Meter, SpanClock
from detector.profile.trace import make_trace
from detector.sources import open_sources
from detector.stages import STAGES, Stage, StageClock
from kernels import cuda_graph
from kernels.launch import cuda, on_stream, to_device, to_host
from kernels.pack_frame import _pack
from kernels.tiles import ActiveTiles, TileSpec
from kernels.transfers import POINT_STEP, Download, TileUpload, point_upload
from models.sparse_cuda import CudaTileExecutor
from tests.detector.test_profile import check_trace
from tests.kernels.test_cuda_graph import Driver
from tests.made_up_gpu import DEFAULT_STREAM, NAME, kept_by_numba, made_up_gpu
from tests.models.small_networks import everything_network
from tests.profile_measurement import make_measurement, write_frames
from tests.tiny_network import INFO, SPEC, tiny_model, write_mask_model, write_model

FOUR_TILES = replace(SPEC, x_max_m=25.6, y_min_m=-12.8, y_max_m=12.8)
ASKED = ("cuMemAlloc", "cuMemHostAlloc", "cuMemFree", "cuMemFreeHost", "cuEventCreate", "cuEventDestroy",
         "cuStreamCreate", "cuStreamDestroy")  # fmt: skip
STEPS = 4  # of points in the largest frame


@pytest.fixture
def gpu(monkeypatch):
    """On it all tiles of a mask are active, and the lists of tiles arrive."""
    with made_up_gpu(monkeypatch) as made:
        made.does = {"_list_cuda": list_all, "_pack_cuda": lambda *arguments: _pack(*arguments, 0, 1)}
        yield made


def list_all(active, index, count):
    count[0] = active.size
    index[: active.size] = np.argwhere(np.ones(active.shape))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "tiny.onnx"
    write_mask_model(path, FOUR_TILES)
    return str(write_model(path, tiny_model(spec=FOUR_TILES), replace(INFO, grid=FOUR_TILES)))


def frame_of(points):
    return Frame(np.full((points, 4), 0.5, np.float32))


def run_in_pairs(pipeline, sizes, buffers):
    """Frames of these sizes, each started before the one before it is waited for; gives the results."""
    before, results = None, []
    for number, points in enumerate(sizes):
        frame, clock = frame_of(points), StageClock()
        started = pipeline.start(frame, clock, pipeline.prepare(frame, clock, buffers[number % 2]))
        if before is not None:
            results.append(before())
        before = started
    return [*results, before()]


@pytest.mark.parametrize(
    "settings",
    [
        {"mask": MaskConfig("foreground+occupancy")},
        {"mask": MaskConfig("occupancy"), "budget": BudgetConfig(tiles=1)},
        {"mask": MaskConfig("all"), "budget": BudgetConfig(ms=1e4)},
    ],
)
def test_frames_of_any_size_ask_for_nothing_new(settings, model, gpu):
    pipeline = Pipeline(Config(model=model, device="cuda", **settings))
    buffers = [pipeline.new_buffers() for _ in range(2)]
    run_in_pairs(pipeline, np.repeat(np.arange(STEPS, -1, -1), 2) * POINT_STEP, buffers)
    before, asked, held, kept = len(gpu.calls), gpu.count(*ASKED), gpu.held(), kept_by_numba()
    run_in_pairs(pipeline, np.random.default_rng(0).integers(0, STEPS * POINT_STEP, 50), buffers)
    assert gpu.count(*ASKED) == asked and gpu.held() == held and kept_by_numba() == kept
    streams = [stream for _, stream in gpu.calls[before:] if stream is not None]
    assert len(streams) > 50 * 20 and DEFAULT_STREAM not in streams
    assert gpu.count("_voxelize_cuda") >= 50 and "cuStreamSynchronize" not in dict(gpu.calls[before:])


@pytest.mark.parametrize("limit", [{"tiles": 1}, {"ms": 1e-3}, {"ms": 1e4}])
def test_a_budget_keeps_the_network_one_graph(limit, model, gpu, monkeypatch):
    driver = Driver()
    monkeypatch.setattr(cuda_graph, "load_driver", lambda: driver)
    pipeline = Pipeline(Config(model=model, device="cuda", budget=BudgetConfig(**limit), mask=MaskConfig("occupancy")))
    for _ in range(5):
        result = pipeline.detect(frame_of(7))
        assert (result.tiles_run, result.tiles_left_out) == {1: (1, 3), 1e-3: (0, 4), 1e4: (4, 0)}[max(limit.values())]
    if "tiles" in limit:
        assert result.tiles.index[0, 1:].tolist() in ([0, 0], [0, 1]), "one of the two next to the sensor"
    assert driver.names.count("cuGraphInstantiateWithFlags") == 1
    assert driver.names.count("cuGraphLaunch") >= 4, "all frames but the first"


def test_a_list_of_tiles_is_not_overwritten_before_it_is_read(gpu):
    spec = TileSpec.covering((64, 64), 16)
    every = ActiveTiles.all(spec)
    lists = [ActiveTiles(every.index[chosen], spec) for chosen in (slice(3, 9), slice(0), slice(None))]
    with on_stream(cuda.stream()):
        upload, found = TileUpload(spec), []
        for tiles in lists:
            there = upload(tiles)
            found.append((Download(), Download(), there))
            for download, array in zip(found[-1], (there.index, there.count), strict=False):
                download.queue(array)
        for (index, count, there), tiles in zip(found, lists, strict=True):
            assert np.array_equal(index.wait()[: int(count.wait()[0])], tiles.index) and there.spec == spec
        assert np.array_equal(there.to_host().index, every.index)
    places = {part.__cuda_array_interface__["data"][0] for *_, there in found for part in (there.index, there.count)}
    assert len(places) == 2


def test_points_are_not_overwritten_before_they_are_read(gpu):
    clouds = [np.random.default_rng(seed).random((size, 4), np.float32) for seed, size in enumerate((5, 2000, 700))]
    with on_stream(cuda.stream()):
        upload, downloads = point_upload(), [Download() for _ in clouds]
        for points, download in zip(clouds, downloads, strict=True):
            download.queue(upload(points))
        for points, download in zip(clouds, downloads, strict=True):
            found = download.wait()
            assert np.array_equal(found[: len(points)], points) and np.isnan(found[len(points) :]).all()
            assert len(found) == -(-len(points) // POINT_STEP) * POINT_STEP


def test_what_tiles_cannot_run_goes_to_the_host_on_its_own_stream(gpu):
    pytest.importorskip("onnxruntime")
    network = everything_network(0, 16, 32)
    executor = CudaTileExecutor(network)
    grid = to_device(np.zeros(network.info.grid.shape, np.float32))
    tiles, before = ActiveTiles.all(executor.grid_tiles).to_device(), len(gpu.calls)
    with on_stream(cuda.stream()):
        for array in executor.run(grid, tiles):
            assert np.isfinite(to_host(array)).all()
    streams = {stream for _, stream in gpu.calls[before:] if isinstance(stream, int)}
    assert len(streams) == 1 and DEFAULT_STREAM not in streams


def test_times_of_frames_on_their_way_are_their_own(model, gpu):
    """Events go round; a millisecond more for every step of points tells whose they were."""
    gpu.does["_voxelize_cuda"] = lambda points, *_: gpu.spend(len(points) // POINT_STEP)
    pipeline = Pipeline(Config(model=model, device="cuda", mask=MaskConfig("all")))
    steps = [3, 1, 4, 1, 5, 2, 6]
    buffers = [pipeline.new_buffers() for _ in range(2)]
    results = run_in_pairs(pipeline, [count * POINT_STEP for count in steps], buffers)
    assert [result.stage_ms["voxelize"] for result in results] == [2 + count for count in steps]
    for stage in ("reduce", "backbone", "decode", "nms"):
        assert len({result.stage_ms[stage] for result in results[1:]}) == 1 and results[1].stage_ms[stage] > 0
    abandoned = [pipeline.start(frame_of(1)) for _ in range(2)]  # nobody reads their times
    assert pipeline.detect(frame_of(1)).stage_ms == {**results[1].stage_ms, "voxelize": 3} and len(abandoned) == 2


def test_a_third_thread_may_wait(model, gpu):
    pipeline = Pipeline(Config(model=model, device="cuda", mask=MaskConfig("occupancy")))
    finish, download, results = pipeline.start(frame_of(9)), Download(), []

    def wait(call):
        try:
            results.append(call())
        except Exception as error:
            results.append(error)

    for call in (download.wait, finish):
        thread = threading.Thread(target=wait, args=(call,))
        thread.start()
        thread.join()
    assert "CUDA_ERROR_INVALID_CONTEXT" in repr(results[0]), "the made-up driver minds, as the real one does"
    assert results[1].tiles_run == 4 and results[1].stage_ms["nms"] > 0


def test_a_stream_of_two_threads_runs_on_streams_of_its_own(model, gpu):
    pipeline = Pipeline(Config(model=model, device="cuda", mask=MaskConfig("occupancy")))
    pipeline.warm_up()
    before = len(gpu.calls)
    results = list(pipeline.stream([frame_of(points) for points in (5, 3000, 0, 17, 2000)]))
    assert [len(result.frame.points) for result in results] == [5, 3000, 0, 17, 2000]
    assert all(result.tiles_run == 4 for result in results)
    streams = {stream for _, stream in gpu.calls[before:] if isinstance(stream, int)}
    assert len(streams) == 3 and DEFAULT_STREAM not in streams, "the network's, and one for each of two buffers"


class Marks:
    """Moments that are told beforehand [ms]."""

    def __init__(self, *moments):
        self.moments, self.given_back = list(moments), []

    def now(self):
        return self.moments.pop(0)

    def give_back(self, *marks):
        self.given_back += marks


def test_spans_on_the_gpu_begin_when_they_were_queued_or_later(monkeypatch):
    """Queued at 100, 107 and 108 ms, begun by the GPU's own clock at 5, 7 and 20: the first 102 is the earliest."""
    queued_ns, marks = iter([100_000_000, 107_000_000, 108_000_000]), Marks(5, 6, 7, 15, 20, 20.5)
    monkeypatch.setattr("detector.profile.meter.elapsed_ms", lambda begin, end: end - begin)
    monkeypatch.setattr("detector.stages.elapsed_ms", lambda begin, end: end - begin)
    clock = SpanClock()
    with monkeypatch.context() as patch:
        patch.setattr("time.perf_counter_ns", lambda: next(queued_ns))
        for stage in (Stage.VOXELIZE, Stage.MASK, Stage.REDUCE):
            with clock.on_device(stage, marks):
                pass
    monkeypatch.setattr("detector.profile.meter.gpu_name", lambda: "Card")
    clock.settle()
    clock.settle()
    assert [(span.stage, span.start_ns / 1e6, span.end_ns / 1e6) for span in clock.spans] == [
        ("voxelize", 105.0, 106.0), ("mask", 107.0, 115.0), ("reduce", 120.0, 120.5)
    ]  # fmt: skip
    assert {(span.thread_id, span.thread) for span in clock.spans} == {(GPU_TRACK, "Card")}
    assert clock.elapsed_ms == {"voxelize": 1, "mask": 8, "reduce": 0.5}
    assert marks.given_back == [5, 6, 7, 15, 20, 20.5]


def test_the_trace_has_a_track_of_the_gpu(gpu, tmp_path):
    gpu.kernel_ms = 1e-4  # less than it takes to queue one
    folder = write_frames(tmp_path, 3)
    meter = Meter("sparse", open_sources([folder])[0].frames, {"config": folder / "tiny.yaml", "device": "cuda"})
    samples = meter.turn([0, 1, 2])
    measured = make_measurement(frames=3)
    trace = make_trace(replace(measured, samples={"sparse": samples}))
    check_trace(trace)
    (track,) = (event for event in trace["traceEvents"] if event["tid"] == GPU_TRACK and event["ph"] == "M")
    assert track["args"] == {"name": NAME} and track["pid"] == measured.facts["sparse"].pid
    stages = [event for event in trace["traceEvents"] if event["tid"] == GPU_TRACK and event["ph"] == "X"]
    on_gpu = [row.stage.value for row in STAGES if row.owner == "pipeline"]
    assert [event["name"] for event in stages] == on_gpu * 3
    for sample, start in zip(samples, range(0, len(stages), len(on_gpu)), strict=True):
        drawn = {event["name"]: event["dur"] / 1e3 for event in stages[start : start + len(on_gpu)]}
        assert drawn == pytest.approx({name: sample.stage_ms[name] for name in on_gpu}, abs=1e-5)
        load = sample.spans[0]
        assert load.stage == "load" and load.thread_id != GPU_TRACK
        assert all(span.start_ns >= load.end_ns for span in sample.spans[1:]), "nothing is queued before"
