"""`profile --compare`: finds what was slowed down, and nothing where only the day differs."""

import copy
import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from detector.cli import FriendlyGroup
from detector.errors import RoadblocksError
from detector.profile import compare as comparing
from detector.profile.command import profile
from detector.profile.compare import check_comparable, compare, differences, ratio_interval, read_record
from detector.profile.record import make_record
from tests.profile_measurement import make_measurement


def record(seed=0, **options):
    values = json.loads(json.dumps(make_record(make_measurement(seed, **options), ["drive"])))
    return {**values, "load": 0.0}


def verdicts(before, after, **options):
    """What changed: {(mode, stage, percentile): verdict}."""
    rows = {(row.mode, row.stage, row.percentile): row.verdict for row in compare(before, after, **options)}
    return {key: verdict for key, verdict in rows.items() if verdict != "same"}


def test_noise_is_no_change():
    before = record(0)
    assert [verdicts(before, record(seed)) for seed in range(1, 5)] == [{}] * 4


def test_a_slow_down_is_found_where_it_is():
    found = verdicts(record(0), record(1, factors={"backbone": 1.15}))
    assert found[("sparse", "backbone", 50)] == found[("sparse", "total", 50)] == "slower"
    assert {(mode, stage) for mode, stage, _ in found} == {("sparse", "backbone"), ("sparse", "total")}


def test_a_gain_is_found_and_is_no_regression():
    found = verdicts(record(0), record(1, factors={"voxelize": 0.5}))
    assert found[("sparse", "voxelize", 50)] == "faster" and "slower" not in found.values()


def test_what_nobody_feels_is_no_regression():
    assert verdicts(record(0), record(1, factors={"reduce": 3.0})) == {}, "0.2 ms of 48"


def test_a_tolerance_hides_what_is_smaller():
    before, after = record(0), record(1, factors={"backbone": 1.15})
    assert verdicts(before, after, tolerance=0.3) == {}


def test_a_worse_tail_is_found():
    before, after = record(0, frames=200), record(1, frames=200)
    rng = np.random.default_rng(0)
    hit = rng.random(200) < 0.12
    lists = after["modes"]["sparse"]
    lists["frame_ms"] = (np.array(lists["frame_ms"]) * np.where(hit, 2.0, 1.0)).tolist()
    assert verdicts(before, after) == {("sparse", "total", 95): "slower"}


@given(st.floats(1.2, 5), st.integers(2, 40), st.integers(0, 100))
def test_the_same_factor_for_every_frame_is_the_ratio(factor, count, seed):
    before = np.random.default_rng(seed).uniform(1, 9, count)
    for percentile in (50, 95):
        found = ratio_interval(before, before * factor, percentile, True, np.random.default_rng(0))
        assert found == pytest.approx((factor,) * 3)


@pytest.mark.parametrize(("percentile", "same_frames"), [(50, True), (95, True), (50, False)])
def test_without_neighbours_the_interval_is_scipy_s(monkeypatch, percentile, same_frames):
    rng = np.random.default_rng(3)
    monkeypatch.setattr(comparing, "_block_draws", lambda count, rng: rng.integers(0, count, (4000, count)))
    before = rng.lognormal(1, 0.3, 300)
    after = before * rng.lognormal(0.1, 0.1, 300)

    def ratio(one, other, axis):
        if same_frames and percentile == 50:
            return np.median(other / one, axis=axis)
        return np.percentile(other, percentile, axis=axis) / np.percentile(one, percentile, axis=axis)

    wanted = stats.bootstrap(
        (before, after), ratio, paired=same_frames, confidence_level=0.99, method="percentile", n_resamples=4000
    ).confidence_interval
    found, low, high = ratio_interval(before, after, percentile, same_frames, rng)
    assert found == pytest.approx(ratio(before, after, 0))
    assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=0.25 * (wanted.high - wanted.low))


def test_blocks_are_stretches_of_neighbours():
    drawn = comparing._block_draws(64, np.random.default_rng(0))
    assert drawn.shape == (comparing.DRAWS, 64)
    assert (np.diff(drawn.reshape(-1, 16, 4), axis=2) % 64 == 1).all()
    assert np.bincount(drawn.ravel(), minlength=64) == pytest.approx(np.full(64, comparing.DRAWS), rel=0.15)


def test_more_loops_are_compared_as_far_as_both_go():
    assert verdicts(record(0), record(1, loop=2)) == {}


def change(values, *keys, value):
    values = copy.deepcopy(values)
    place = values
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return values


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("machine", "cpu"), "another", "differ in processor: .* and another, expected the same"),
        (("machine", "cores"), 99, "differ in number of cores"),
        (("device",), "cuda", "differ in device: cpu and cuda"),
        (("threads",), 1, "differ in number of threads: all and 1"),
        (("frames_sha256",), "f" * 64, "differ in frames: 60 frames 0+ and 60 frames f+"),
    ],
)
def test_other_machines_and_frames_are_refused(keys, value, words):
    with pytest.raises(RoadblocksError, match=words):
        check_comparable(record(0), change(record(0), *keys, value=value))


def test_what_differs_is_told():
    after = change(change(record(0), "config", "mask", "margin_m", value=1.6), "revision", value="abc")
    told = differences(record(0), after)
    assert told[0].endswith("→ abc") and told[1:] == ["config.mask.margin_m: 0.8 → 1.6"]
    assert "load: 0.0 → 3.2; other programs ran" in differences(record(0), change(record(0), "load", value=3.2))[0]


@pytest.fixture
def files(tmp_path):
    def write(**records):
        for name, values in records.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(values))
        return [str(tmp_path / f"{name}.json") for name in records]

    return write


def invoke(*words):
    return CliRunner().invoke(FriendlyGroup(commands={"profile": profile}), ["profile", *words])


def test_exit_codes(files, tmp_path):
    old, same, slow = files(old=record(0), same=record(1), slow=record(2, factors={"backbone": 1.3}))
    done = invoke("--compare", old, same)
    assert done.exit_code == 0 and "0 slower, 0 faster" in done.stdout
    done = invoke("--compare", old, slow, "--json", str(tmp_path / "out.json"))
    assert done.exit_code == 3 and "slower" in done.stdout
    assert json.loads((tmp_path / "out.json").read_text())["regression"] is True
    assert invoke("--compare", slow, old).exit_code == 0
    done = invoke("--compare", old, slow, "--json", "-")
    assert {row["verdict"] for row in json.loads(done.stdout)["changes"]} == {"slower", "same"}


def test_force_compares_other_frames(files):
    old, other = files(old=record(0), other=record(1, frames=45))
    done = invoke("--compare", old, other)
    assert done.exit_code == 2 and "--force" in " ".join(done.stderr.split()) and "Traceback" not in done.output
    assert invoke("--compare", old, other, "--force").exit_code == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no profile"),
        ("[]", "no profile"),
        ("{}", "no 'modes'"),
        ('{"modes": {"sparse": {"frame_ms": [1.0], "stage_ms": {"nms": []}}}, "frames": 1, "loop": 1}', "length"),
    ],
)
def test_other_files_are_told(tmp_path, text, words):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(RoadblocksError, match=rf"other.json: no profile .*{words}|other.json: {words}") as error:
        read_record(path)
    assert "expected a file written by roadblocks profile" in str(error.value)


def test_a_missing_file_is_one_line(tmp_path):
    done = invoke("--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    assert done.exit_code == 2 and "a.json: No such file" in " ".join(done.stderr.split())
