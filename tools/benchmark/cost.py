"""``python -m tools.benchmark cost``: what the network costs by the number of active tiles, and a line through it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

from detector.cli import results
from detector.files import write_json
from kernels.tiles import ActiveTiles, TileSpec
from models.network import load_network
from models.plan import GRID_TILE
from models.sparse import TileExecutor
from tools.benchmark.report import make_figure, origin

SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
BLOB = 4  # tiles of a side: active tiles come in clusters, as on a road
ROUNDS = 7


def clustered_tiles(spec: TileSpec, share: float, rng: np.random.Generator) -> ActiveTiles:
    """About this share of all tiles, in clusters."""
    small = [-(-count // BLOB) for count in spec.count]
    chosen = np.zeros(small[0] * small[1], np.bool_)
    chosen[rng.permutation(len(chosen))[: round(share * len(chosen))]] = True
    tiles = np.kron(chosen.reshape(small), np.ones((BLOB, BLOB), np.bool_))[: spec.count[0], : spec.count[1]]
    index = np.argwhere(tiles[None]).astype(np.int32).reshape(-1, 3)
    return ActiveTiles(index, spec)


def measure_cost(executor: TileExecutor, shares: Sequence[float] = SHARES) -> list[tuple[int, float]]:
    """(active tiles, milliseconds) for each share: the median of rounds in which the shares take turns."""
    made = executor.plan.maps["grid"]
    spec = TileSpec.covering((made.rows, made.cols), GRID_TILE)
    rng = np.random.default_rng(0)
    grid = (rng.random(made.shape[1:], np.float32) < 0.01).astype(np.float32)
    lists = [clustered_tiles(spec, share, rng) for share in shares]
    times = np.zeros((ROUNDS, len(lists)))
    for turn in range(ROUNDS):
        for number, tiles in enumerate(lists):
            executor.run(grid, tiles)  # so that the timed run restores nothing
            spent: dict[str, float] = {}
            executor.run(grid, tiles, step_ms=spent)
            times[turn, number] = sum(spent.values())
    return [(len(tiles), float(ms)) for tiles, ms in zip(lists, np.median(times, axis=0), strict=True)]


def fit_line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Intercept a [ms] and slope b [ms per tile] of time = a + b · tiles, by least squares."""
    tiles, ms = np.array(points).T
    b, a = np.polyfit(tiles, ms, 1)
    return float(a), float(b)


@click.command()
@click.argument("network", default="kitti", metavar="[NAME|FILE]")
@click.option("--dense-ms", type=float, help="Milliseconds of a dense run, to compare a with.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the record as JSON.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a plot as PNG (extra 'plots').")
def cost(network: str, dense_ms: float | None, json_file: Path | None, plot: Path | None) -> None:
    """Time of the network by active tiles, and the fit time = a + b · tiles."""
    loaded = load_network(network)
    executor = TileExecutor(loaded)
    points = measure_cost(executor)
    a, b = fit_line(points)
    total = TileSpec.covering((loaded.info.grid.rows, loaded.info.grid.cols), GRID_TILE).total
    table = Table("active tiles", "share", "ms", "fit")
    for tiles, ms in points:
        table.add_row(str(tiles), f"{tiles / total:.2f}", f"{ms:.2f}", f"{a + b * tiles:.2f}")
    results.print(table)
    share = f", {a / dense_ms:.1%} of a dense run's {dense_ms:.0f} ms" if dense_ms else ""
    results.print(f"time = {a:.2f} ms + {1e3 * b:.2f} µs per tile; a is {a / points[-1][1]:.1%} of all tiles{share}")
    record: dict[str, Any] = {
        "points": [{"tiles": tiles, "ms": ms} for tiles, ms in points],
        "a_ms": a,
        "b_ms_per_tile": b,
        "total_tiles": total,
        "dense_ms": dense_ms,
        **origin(),
    }
    if json_file is not None:
        write_json(json_file, record)
    if plot is not None:
        draw(record, plot)


def draw(record: dict[str, Any], file: Path) -> None:
    """The plot of the points and their line.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    machine = record["machine"]
    title = f"Network by active tiles, {machine['cores']} cores of {machine['cpu']}, {record['date'][:10]}"
    figure, axes = make_figure(title)
    a_ms, b_ms = record["a_ms"], record["b_ms_per_tile"]
    line = [a_ms, a_ms + b_ms * record["total_tiles"]]
    axes.plot([0, 1], line, color="0.6", label=f"{a_ms:.1f} ms + {1e3 * b_ms:.1f} µs per tile")
    shares = [point["tiles"] / record["total_tiles"] for point in record["points"]]
    axes.plot(shares, [point["ms"] for point in record["points"]], "o", label="measured, tiles in clusters")
    if record["dense_ms"]:
        axes.axhline(record["dense_ms"], color="C3", linestyle="--", label="dense, onnxruntime")
    axes.set(xlabel="share of active tiles", ylabel="milliseconds", xlim=(0, 1), ylim=(0, None))
    axes.legend(loc="upper left")
    figure.savefig(file)
