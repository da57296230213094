"""Known failures of a network, in words, from a record of ``tools.benchmark failures``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tools.benchmark.failure_cases import FEW_POINTS, NEAR_CAR, NOTHING, UNLABELLED
from tools.benchmark.pages import markdown, measured

LEAST_CARS = 5  # that a bin must have to be called a weakness
WEAK_BELOW = 0.5  # recall
RECORDED = "$KITTI --split configs/splits/kitti_val.txt"


def failure_text(record: Mapping[str, Any], file: str, config: str = "") -> str:
    """What is missed and what is taken for a car, on recorded or on simulated frames.

    Args:
        record: of the failures.
        file: its name, without its ending.
        config: words that the command needs besides.
    """
    simulated = record["simulated"]
    words = f"--frames {record['frames']} --seed {simulated['seed']} --pictures docs" if simulated else RECORDED
    command = f"python -m tools.benchmark failures {words}{config}"
    parts = [summary(record), weaknesses(record), alarms(record), recall_table(record)]
    parts += [pictures(record) if simulated else frames(record), measured(dict(record), command, file)]
    return "\n\n".join(part for part in parts if part)


def summary(record: Mapping[str, Any]) -> str:
    """How many cars are found and how many boxes are false."""
    everything, false = record["recall"][0], sum(record["false_alarms"].values())
    what, where = "recorded", "of any size in the image"
    if record["simulated"]:
        what = "simulated"
        where = "all round" if record["simulated"]["all_round"] else where
    return (
        f"**Failures on {record['frames']} {what} frames**, sparse, at the display score. Of {everything['cars']} "
        f"labelled cars {where} **{everything['cars'] - everything['found']} are missed** (no box "
        f"overlaps them by half, seen from above); of the {everything['found']} found, "
        f"{everything['found'] - everything['well_placed']} are placed too badly for KITTI's 0.7. "
        f"**False alarms: {false}.**"
    )


def weaknesses(record: Mapping[str, Any]) -> str:
    """The bins in which less than half is found, and how many of all misses are in them."""
    rows = [row for row in record["recall"] if row["group"] not in ("all", "class", "tiles")]
    weak = [row for row in rows if row["cars"] >= LEAST_CARS and row["found"] < WEAK_BELOW * row["cars"]]
    if not weak:
        return ""
    told = "; ".join(f"{row['name']} ({row['found']} of {row['cars']} found)" for row in weak)
    missed = record["missed"]
    return (
        f"Weak on: {told}. Of the {missed['cars']} missed cars {missed['doubted']} have a box below the display score; "
        f"{missed['few_points']} hold fewer than {FEW_POINTS} points; {missed['unseen']} lie wholly outside the active "
        "tiles or beyond the grid, where the network does not look."
    )


def alarms(record: Mapping[str, Any]) -> str:
    """What stands where false alarms are."""
    counts = dict(record["false_alarms"])
    if not counts:
        return ""
    told = [f"{counts.pop(what)} on {what}" for what in (NEAR_CAR, UNLABELLED) if what in counts]
    nothing = counts.pop(NOTHING, 0)
    told += [f"{number} on {what}" for what, number in counts.items()]
    told += [f"{nothing} where nothing is labelled"] if nothing else []
    return f"False alarms stand: {', '.join(told)}."


def recall_table(record: Mapping[str, Any]) -> str:
    """Recall by one property at a time."""
    rows = [
        [
            row["name"],
            str(row["cars"]),
            *(f"{row[key]} ({row[key] / row['cars']:.0%})" for key in ("found", "well_placed")),
        ]
        for row in record["recall"]
    ]
    return markdown(["", "labelled", "found", "placed well"], rows)


def frames(record: Mapping[str, Any]) -> str:
    """The worst recorded frames, whose pictures cannot be shown here."""
    return (
        f"The worst: {_listed(record['worst'])}. The frames are not free to be shown; with the data, `--pictures out` "
        "draws them."
    )


def _listed(facts: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(
        f"`{each['id']}` ({each['missed']} of {each['cars']} cars missed, {_alarms(each['false_alarms'])})"
        for each in facts
    )


def _alarms(count: int) -> str:
    return f"{count} false alarm{'' if count == 1 else 's'}"


def pictures(record: Mapping[str, Any]) -> str:
    """The worst simulated frames, drawn."""
    return "\n\n".join(
        f"![Simulated frame {each['id']} from above: {each['missed']} of {each['cars']} cars missed, dashed red; "
        f"{_alarms(each['false_alarms'])}, amber; found cars green, labels that do not count grey]"
        f"(../docs/{each['file']})"
        for each in record.get("pictures", ())
    )
