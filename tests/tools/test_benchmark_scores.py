"""`python -m tools.benchmark scores`: rates by threshold, and how often scores are right, where they are known."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from detector.evaluate import best_f1_score
from detector.labels import KittiLabels
from detector.matching import FramePair
from models.network import load_network
from tools.benchmark import score_page
from tools.benchmark.__main__ import main
from tools.benchmark.scores import judged, operating_points, reliability, score_facts
from tools.simulation.drive import simulate_drive
from tools.simulation.layouts import write_object


def frame(*things):
    """Cars 4 m long at (x, z) in the camera's frame, with scores."""
    rows = [(0, 0, 0, 100, 100, 180, 160, 1.5, 2.0, 4.0, x, 1.65, z, 0.0, score) for x, z, score in things]
    return KittiLabels.from_table(("Car",) * len(rows), np.array(rows, float))


TRUTH = frame(*[(5 * place, 20, np.nan) for place in range(4)])
FOUND = frame((0, 20, 0.9), (5, 20, 0.8), (10, 20, 0.4), (0, 40, 0.7), (5, 40, 0.6), (10, 40, 0.45))


def test_rates_by_threshold():
    rows = operating_points([FramePair(FOUND, TRUTH)], np.array([0.3, 0.5, 0.8, 0.95]))
    counts = [[row[key] for key in ("right", "wrong", "missed")] for row in rows]
    assert counts == [[3, 3, 1], [2, 2, 2], [2, 0, 2], [0, 0, 4]]
    assert [row["precision"] for row in rows] == [0.5, 0.5, 1, 0]
    assert [row["recall"] for row in rows] == [0.75, 0.5, 0.5, 0]
    assert [row["f1"] for row in rows] == pytest.approx([6 / 10, 4 / 8, 4 / 6, 0])


def test_the_best_score_is_the_one_that_networks_carry():
    facts = score_facts([FOUND], [TRUTH], 0.5)
    score, f1 = best_f1_score([FOUND], [TRUTH])
    assert (facts["best"]["score"], facts["best"]["f1"]) == (score, pytest.approx(f1)) == (0.8, pytest.approx(4 / 6))
    assert facts["display"]["score"] == 0.5 and facts["display"]["f1"] == 0.5
    assert [row["score"] for row in facts["thresholds"]] == pytest.approx(np.arange(0.05, 0.99, 0.05))


def test_every_detection_is_judged_by_itself():
    scores, right = judged([FOUND], [FramePair(FOUND, TRUTH)])
    assert dict(zip(scores, right, strict=True)) == {0.9: 1, 0.8: 1, 0.4: 1, 0.7: 0, 0.6: 0, 0.45: 0}


def test_reliability_in_closed_form():
    scores = np.array([0.1, 0.15, 0.6, 0.7, 1.0])
    rows, error = reliability(scores, np.array([False, True, False, True, True]))
    assert [(row["low"], row["detections"]) for row in rows] == [(0.1, 2), (0.6, 1), (0.7, 1), (0.9, 1)]
    assert [row["right"] for row in rows] == [0.5, 0, 1, 1]
    assert rows[0]["score"] == pytest.approx(0.125)
    assert error == pytest.approx((2 * 0.375 + 0.6 + 0.3 + 0) / 5)


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=1, max_size=40))
def test_reliability_holds_every_detection_once(pairs):
    scores, right = np.array([number / 100 for number, _ in pairs]), np.array([hit for _, hit in pairs])
    rows, error = reliability(scores, right)
    assert sum(row["detections"] for row in rows) == len(pairs)
    assert sum(row["detections"] * row["right"] for row in rows) == pytest.approx(right.sum())
    assert sum(row["detections"] * row["score"] for row in rows) == pytest.approx(scores.sum())
    assert all(row["low"] - 1e-9 <= row["score"] <= row["low"] + 0.1 + 1e-9 for row in rows) and 0 <= error <= 1


def test_nothing_found_is_no_error():
    assert reliability(np.zeros(0), np.zeros(0, bool)) == ([], 0)
    assert score_facts([KittiLabels.empty()], [TRUTH], 0.5)["best"]["f1"] == 0


def test_the_command(tmp_path, monkeypatch):
    write_object(tmp_path, simulate_drive(2, seed=0))
    words = ["scores", str(tmp_path), "--plot", str(tmp_path / "scores.png"), "--json", "-"]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    record = json.loads(result.stdout)
    network = load_network("kitti")
    assert record["sha256"] == network.sha256 and record["display_score"] == network.info.display_score
    assert [run["execution"] for run in record["runs"]] == ["dense", "sparse"] and record["frames"] == 2
    for run in record["runs"]:
        assert run["best"]["f1"] >= max(row["f1"] for row in run["thresholds"])
        cars = {row["right"] + row["missed"] for row in run["thresholds"] if not row["right"]}
        assert len(cars) <= 1
    assert (tmp_path / "scores.png").stat().st_size > 10_000
    monkeypatch.setattr(score_page, "records_of", lambda kind: {kind: record})
    assert f"display score {network.info.display_score:g}" in score_page.score_rows()
