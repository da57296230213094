"""Frames within a budget: the nearest tiles, as many as fit, and the rest counted."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from detector import Config, Frame, Pipeline
from detector.budget import IGNORED, RECENT, Budget, CostModel, first_tiles, tile_range_m
from detector.cli import main
from detector.config import BudgetConfig
from detector.errors import ConfigError
from detector.sources import FrameFile
from detector.stages import STAGES
from kernels.tiles import ActiveTiles, TileSpec, random_tiles
from models.grid import BevSpec
from tests.tiny_network import patch_points, write_wide_model

GRID = BevSpec()
TILES = TileSpec.covering((GRID.rows, GRID.cols), 16)


def budget(**limits):
    return Budget(BudgetConfig(**limits))


@given(
    empty=st.floats(0.1, 10), tile=st.floats(0.01, 1), slow=st.floats(0.2, 20), ms=st.floats(0, 1000), tiles=st.data()
)
def test_the_cost_model_learns_how_slow_the_machine_is(empty, tile, slow, ms, tiles):
    cost = CostModel(empty, empty + 100 * tile, 100)
    assert cost.tiles_within(ms) == pytest.approx(max(0, (ms - empty) / tile), abs=1.001)
    for _ in range(RECENT):
        run = tiles.draw(st.integers(0, 100))
        cost.add(run, slow * (empty + tile * run))
    assert cost.tiles_within(ms) == pytest.approx(max(0, (ms / slow - empty) / tile), abs=1.001)


def test_hiccups_are_ignored_and_forgotten():
    cost = CostModel(2.0, 102.0, 100)
    for _ in range(IGNORED):
        cost.add(10, 5000.0)
    assert cost.tiles_within(52.0) == 50
    cost.add(10, 24.0)  # twice as slow
    assert cost.tiles_within(52.0) == 24
    for _ in range(RECENT):
        cost.add(50, 52.0)
    assert cost.tiles_within(52.0) == 50


def test_range_of_tiles_is_that_of_their_middles():
    range_m = tile_range_m(GRID, TILES)
    assert range_m.shape == TILES.count
    row, col = 3, 41
    x_m, y_m = 3 * 1.6 + 0.8, -40 + 41 * 1.6 + 0.8
    assert range_m[row, col] == pytest.approx(np.hypot(x_m, y_m))


@given(seed=st.integers(0, 99), share=st.floats(0, 1), limit=st.integers(1, 3000))
def test_the_nearest_tiles_run_in_their_order(seed, share, limit):
    tiles = random_tiles(np.random.default_rng(seed), TILES, share)
    kept = first_tiles(tiles, None, tile_range_m(GRID, TILES), limit)
    assert len(kept) == min(limit, len(tiles))
    chosen = {tuple(tile) for tile in kept.index}
    assert [tuple(tile) for tile in tiles.index if tuple(tile) in chosen] == [tuple(tile) for tile in kept.index]
    range_m = tile_range_m(GRID, TILES)
    left_out = [range_m[tile[1:]] for tile in map(tuple, tiles.index) if tile not in chosen]
    if left_out and len(kept):
        assert max(range_m[tile[1:]] for tile in chosen) <= min(left_out) + 1e-9


def test_a_likely_tile_far_away_goes_before_an_unlikely_one_nearby():
    tiles = ActiveTiles(np.array([[0, 0, 25], [0, 10, 25], [0, 43, 25]], np.int32), TILES)
    likely = np.array([0.3, 0.9, 0.9], np.float32)
    for limit, expected in ((1, [10]), (2, [10, 43]), (3, [0, 10, 43])):
        assert first_tiles(tiles, likely, tile_range_m(GRID, TILES), limit).index[:, 1].tolist() == expected


def test_time_spent_before_the_network_counts_and_both_limits_hold():
    limited = budget(ms=50.0, tiles=30)
    assert limited.wants_costs
    limited.start(CostModel(10.0, 10.0 + TILES.total, TILES.total))
    assert not limited.wants_costs
    assert [limited.tiles_within(TILES.total, spent_ms) for spent_ms in (0.0, 15.0, 45.0)] == [30, 25, 0]
    assert not budget(tiles=30).wants_costs


def test_frames_far_below_the_budget_say_nothing_about_frames_that_fill_it():
    limited = budget(ms=100.0)
    limited.start(CostModel(1.0, 1.0 + 0.05 * TILES.total, TILES.total))
    before = limited.tiles_within(TILES.total, 0.0)
    for _ in range(RECENT):
        limited.learn(0, 8.0)  # eight times as long as a frame without tiles should take
    assert limited.tiles_within(TILES.total, 0.0) == before
    for _ in range(RECENT):
        limited.learn(100, 12.0, left_out=50)  # so slow that tiles were left out: that does say something
    assert limited.tiles_within(TILES.total, 0.0) == (100 / 2 - 1) / 0.05


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_wide_model(tmp_path_factory.mktemp("network") / "tiny.onnx"))


def test_the_pipeline_runs_the_nearest_tiles_and_counts_the_others(model, monkeypatch):
    pipeline = Pipeline(Config(model=model, device="cpu", budget=BudgetConfig(tiles=3)))
    network, given_tiles = pipeline._executor, []
    monkeypatch.setattr(
        pipeline, "_executor", SimpleNamespace(run=lambda *frame: given_tiles.append(frame[1]) or network.run(*frame))
    )
    far = patch_points(14, 2)
    points = np.concatenate([patch_points(row, 2) for row in (0, 5, 10)] + [far])
    active = pipeline.prepare(Frame(points)).tiles.index.copy()
    result = pipeline.detect(points)
    range_m = tile_range_m(pipeline.spec, pipeline.tiles)
    nearest = sorted(map(tuple, active), key=lambda tile: range_m[tile[1:]])[:3]
    assert list(map(tuple, given_tiles[-1].index)) == sorted(nearest)
    assert (result.tiles_run, result.tiles_left_out) == (3, len(active) - 3) and len(active) > 3


def test_a_time_budget_gives_way_when_the_network_is_slow(model, monkeypatch):
    """Time is what a clock of the test says: 1 ms and 0.5 ms per tile, later three times as much."""
    now_ms, slow = [0.0], [1.0]
    pipeline = Pipeline.from_config(Config(model=model, device="cpu"), budget_ms=10.0, mask="all")
    network, total = pipeline._executor, pipeline.tiles.total

    def run(grid, tiles):
        now_ms[0] += slow[0] * (1 + 0.5 * len(tiles))
        return network.run(grid, tiles)

    monkeypatch.setattr(pipeline, "_executor", SimpleNamespace(run=run))
    monkeypatch.setattr("time.perf_counter", lambda: now_ms[0] / 1e3)
    monkeypatch.setattr("time.perf_counter_ns", lambda: round(now_ms[0] * 1e6))

    pipeline.warm_up()
    assert pipeline._budget._cost.tiles_within(1e9) == CostModel(1.0, 1.0 + 0.5 * total, total).tiles_within(1e9)
    for factor in (1.0, 3.0, 1.0):
        slow[0] = factor
        results = [pipeline.detect(patch_points()) for _ in range(RECENT + 1 + IGNORED)]
        late = [result for result in results if sum(result.stage_ms.values()) > 10 + 1e-6]
        assert len(late) <= (1 + IGNORED if factor == 3 else 0)
        assert results[-1].tiles_run == pytest.approx(min(total, (10 / factor - 1) / 0.5), abs=1)
        assert results[-1].tiles_left_out == total - results[-1].tiles_run


def test_detect_counts_the_time_of_loading_too(model, tmp_path, monkeypatch):
    patch_points().tofile(tmp_path / "a.bin")
    load = FrameFile.load
    monkeypatch.setattr(FrameFile, "load", lambda file: time.sleep(0.3) or load(file))
    (tmp_path / "tiny.yaml").write_text(f"model: {model}\n")
    words = [str(tmp_path / "a.bin"), "--config", str(tmp_path / "tiny.yaml"), "--budget-ms", "300"]
    assert CliRunner().invoke(main, ["detect", *words, "-o", str(tmp_path / "out")]).exit_code == 0
    timing = json.loads((tmp_path / "out" / "timing.jsonl").read_text())
    assert timing["tiles_run"] == 0 < timing["tiles_left_out"]
    assert list(timing["stage_ms"]) == [row.stage.value for row in STAGES]


def test_a_dense_frame_runs_every_tile(model):
    result = Pipeline(Config(model=model, device="cpu", execution="dense")).detect(patch_points())
    assert result.tiles_run == len(result.tiles) == result.tiles_total


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"tiles": 0}, "budget.tiles is 0"),
        ({"ms": 0.0}, "budget.ms is 0.0"),
        ({"ms": float("nan")}, "budget.ms is nan"),
    ],
)
def test_limits_are_checked(limits, words):
    with pytest.raises(ConfigError, match=words):
        Config(budget=BudgetConfig(**limits))


def test_a_dense_frame_has_no_tiles_to_leave_out():
    with pytest.raises(ConfigError, match="expected execution sparse"):
        Config(execution="dense", budget=BudgetConfig(ms=100.0))


def test_the_command_line_takes_a_budget(model, tmp_path):
    patch_points().tofile(tmp_path / "a.bin")
    (tmp_path / "tiny.yaml").write_text(f"model: {model}\nmask: {{source: all}}\n")
    words = [str(tmp_path / "a.bin"), "--config", str(tmp_path / "tiny.yaml"), "--budget-ms", "0.001"]
    done = CliRunner().invoke(main, ["stream", *words, "--rate", "inf"])
    assert done.exit_code == 0, done.output
    line = json.loads(done.stdout)
    assert line["tiles_run"] == 0 and line["tiles_left_out"] > 0
    assert "100.0% of the active tiles left out" in done.stderr
    done = CliRunner().invoke(main, ["detect", *words, "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    (timing,) = (tmp_path / "out").rglob("timing.jsonl")
    assert json.loads(timing.read_text())["tiles_left_out"] == line["tiles_left_out"]
