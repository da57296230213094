"""The kinds of surroundings, and the densities of everything in them: one table.

The table was tuned so that frames look like KITTI's labels (7,363 training frames of the object set): per frame 3.85
cars, 0.39 vans, 0.15 trucks, 0.61 pedestrians (none in 76 % of frames) and 0.22 cyclists; cars within 10 m, 20 m and
30 m 0.40, 1.29 and 2.19; 67 % of cars within 10 degrees of the ego's heading or its reverse, 13 % across it. The near
ranges count: farther away, the labels leave out much that a simulator knows. The labels do not say
where a drive was, so the shares of the settings are estimates.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """A kind of surroundings; ranges are (low, high). See `SETTINGS`.

    Attributes:
        name: how it is called.
        share: how often a drive is there.
        lanes: choices for a main road's lanes, right and left.
        lane_m: width of its lanes.
        parking: chance of a parking row, each side.
        pavement_m: width of pavement or verge.
        kerb_m: height of the kerb, 0 outside towns.
        median_m: strip between the directions.
        shoulder_m: paved strip beside the lanes.
        junction_m: distance between junctions.
        arms: chance that there is a side street where there could be one.
        corner: chance that the main road turns off at a junction.
        bend_rad: how much a bend turns, standard deviation.
        radius_m: of bends.
        speed_mps: the ego's cruising speed.
        headway_s: mean time between vehicles, in the ego's lanes and in oncoming ones.
        parked: share of the parking places taken.
        off_road: parked cars on driveways and yards per 100 m of either side.
        people: pedestrians per 100 m of pavement.
        cyclists: per 100 m of either side.
        built: share of the frontage that has buildings.
        wooded: share of the rest that has trees.
        relief_m: how far the ground away from the road goes up and down.
    """

    name: str
    share: float
    lanes: tuple[tuple[int, int], ...]
    lane_m: tuple[float, float]
    parking: float
    pavement_m: tuple[float, float]
    kerb_m: float
    median_m: float
    shoulder_m: float
    junction_m: tuple[float, float]
    arms: float
    corner: float
    bend_rad: float
    radius_m: tuple[float, float]
    speed_mps: tuple[float, float]
    headway_s: tuple[float, float]
    parked: tuple[float, float]
    off_road: float
    people: float
    cyclists: float
    built: float
    wooded: float
    relief_m: float


SETTINGS = (
    Setting(
        "residential", 0.42, lanes=((1, 1),), lane_m=(2.6, 3.0), parking=0.75, pavement_m=(1.5, 2.6), kerb_m=0.12,
        median_m=0, shoulder_m=0, junction_m=(35, 90), arms=0.9, corner=0.25, bend_rad=0.35, radius_m=(35, 140),
        speed_mps=(4, 10), headway_s=(60, 18), parked=(0.3, 0.95), off_road=2.0, people=0.6, cyclists=0.3,
        built=0.6, wooded=0.4, relief_m=0.3,
    ),
    Setting(
        "city", 0.28, lanes=((1, 1), (1, 1), (2, 1), (2, 2)), lane_m=(3.1, 3.5), parking=0.5, pavement_m=(2.0, 4.0),
        kerb_m=0.12, median_m=0, shoulder_m=0, junction_m=(50, 120), arms=0.9, corner=0.12, bend_rad=0.25,
        radius_m=(60, 250), speed_mps=(3, 13), headway_s=(25, 9), parked=(0.3, 0.95), off_road=1.2, people=2.4,
        cyclists=0.7, built=0.7, wooded=0.4, relief_m=0.15,
    ),
    Setting(
        "centre", 0.08, lanes=((1, 1), (1, 0)), lane_m=(2.7, 3.2), parking=0.1, pavement_m=(2.0, 4.5), kerb_m=0.05,
        median_m=0, shoulder_m=0, junction_m=(30, 70), arms=0.8, corner=0.2, bend_rad=0.3, radius_m=(30, 100),
        speed_mps=(2, 6), headway_s=(50, 50), parked=(0.1, 0.4), off_road=0.3, people=28.0, cyclists=2.0,
        built=0.95, wooded=0.3, relief_m=0.1,
    ),
    Setting(
        "country", 0.14, lanes=((1, 1),), lane_m=(3.2, 3.6), parking=0.0, pavement_m=(1.2, 2.5), kerb_m=0.0,
        median_m=0, shoulder_m=0.3, junction_m=(120, 350), arms=0.6, corner=0.0, bend_rad=0.5, radius_m=(90, 400),
        speed_mps=(11, 20), headway_s=(9, 6), parked=(0.2, 0.6), off_road=0.3, people=0.05, cyclists=0.1,
        built=0.06, wooded=0.5, relief_m=1.2,
    ),
    Setting(
        "highway", 0.08, lanes=((2, 2), (2, 2), (3, 3)), lane_m=(3.5, 3.75), parking=0.0, pavement_m=(1.5, 2.5),
        kerb_m=0.0, median_m=3.0, shoulder_m=1.5, junction_m=(150, 400), arms=0.0, corner=0.0, bend_rad=0.15,
        radius_m=(500, 1500), speed_mps=(18, 27), headway_s=(4, 4), parked=(0.2, 0.6), off_road=0.0, people=0.0,
        cyclists=0.0, built=0.02, wooded=0.6, relief_m=1.5,
    ),
)  # fmt: skip
