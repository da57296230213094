"""The measurements on ``docs/masks.md``."""

from __future__ import annotations

from tools.benchmark.pages import interval, markdown, mask_name, measured, read_record


def mask_rows() -> str:
    """Every source of the mask at its defaults, and cars that the default loses."""
    record = read_record("masks")
    rows = [
        [
            f"{mask_name(run)}{' (default)' if run['source'] == record['preferred'] else ''}",
            f"{run['tile_fraction']['p50']:.1%} / {run['tile_fraction']['p95']:.1%}",
            f"{run['car_cells_inside']:.1%}",
            f"{run['cars_wholly_inside']:.1%}",
            f"{run['mask_ms']:.1f}",
            f"{run['frame_ms']:.1f}",
            f"{run['ap']['bev']:.1f}",
            interval(run["difference"]),
            f"{len(run['lost'])} of {run['cars_found_dense']}",
        ]
        for run in record["sources"]
    ]
    head = ["mask", "tiles p50 / p95", "car cells inside", "cars wholly inside", "mask ms", "frame ms"]
    table = markdown([*head, "BEV AP", "minus all tiles [95 %]", "cars lost"], rows)
    default = next(run for run in record["sources"] if run["source"] == record["preferred"])
    lost = ", ".join(f"`{car}`" for car in default["lost"]) or "none"
    text = (
        f"{record['frames']} frames. Cars lost: moderate ones found with all tiles (BEV IoU 0.5, at the score that "
        f"pictures show) and not with the mask; by the default: {lost} (frame, and place among the cars and vans of "
        "its label file)."
    )
    command = "python -m tools.benchmark masks $KITTI --split configs/splits/kitti_val.txt"
    return f"{table}\n\n{text}\n\n{measured(record, command, 'masks')}"


def mounting_rows() -> str:
    """Road IoU on simulated drives, and cars inside the default mask with the sensor mounted otherwise."""
    record = read_record("road")
    rows = [
        [name, *(f"{facts[key]:.1%}" for key in ("tile_fraction", "car_cells_inside", "cars_wholly_inside"))]
        for name, facts in record["conditions"].items()
    ]
    iou, cars = record["road_iou"], next(iter(record["conditions"].values()))["cars"]
    text = (
        f"On {record['frames']} simulated frames of worlds that training never saw, road IoU at cells of 0.8 m is "
        f"**{iou['seen']:.3f}** where the sensor sees the ground (a point in the cell or next to it) and "
        f"{iou['everywhere']:.3f} over the whole grid. On as many whole sweeps, with {cars} cars of 10 points and more:"
    )
    table = markdown(["condition", "active tiles", "car cells inside", "cars wholly inside"], rows)
    return f"{text}\n\n{table}\n\n{measured(record, 'python -m tools.benchmark road', 'road')}"


def budget_rows() -> str:
    """What tile and time budgets do."""
    record = read_record("budgets")
    rows = [
        [
            f"`{row['source']}`",
            f"{row['tiles']} tiles" if row["tiles"] else f"{row['budget_ms']:g} ms" if row["budget_ms"] else "none",
            f"{row['p50_ms']:.1f} / {row['p99_ms']:.1f}",
            f"{row['late']:.1%} / {row['late_crowded']:.1%}" if row["budget_ms"] else "",
            f"{row['left_out']:.1%}",
            str(row["cars_found"]),
        ]
        for row in record["rows"]
    ]
    head = [
        "mask",
        "budget",
        "frame ms p50 / p99",
        "frames late, all / crowded",
        "tiles left out",
        "moderate cars found",
    ]
    origin = measured(record, "python -m tools.benchmark budgets $KITTI", "budgets")
    return f"{markdown(head, rows)}\n\n{record['frames']} frames; crowded: the fourth with most active tiles. {origin}"
