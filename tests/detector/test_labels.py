"""Label files: columns at their place, files that give themselves back, errors with their line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.errors import LabelError
from detector.labels import MAX_FILE_BYTES, KittiLabels, format_labels, read_labels

LINE = "Car 0.25 1 -1.57 10.00 20.00 110.00 70.00 1.5000 1.6000 4.0000 2.0000 1.7000 20.0000 -1.4700"
DONT_CARE = "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10"


def read_text(folder: Path, text: str) -> KittiLabels:
    path = folder / "000000.txt"
    path.write_text(text)
    return read_labels(path)


def test_columns_of_one_line(tmp_path: Path) -> None:
    labels = read_text(tmp_path, LINE + " 0.75\n")
    assert labels.types == ("Car",)
    assert (labels.truncated[0], labels.occluded[0], labels.alpha_rad[0]) == (0.25, 1, -1.57)
    assert labels.boxes_2d[0].tolist() == [10, 20, 110, 70]
    assert labels.dimensions_m[0].tolist() == [1.5, 1.6, 4.0]  # height, width, length
    assert labels.locations_m[0].tolist() == [2.0, 1.7, 20.0]
    assert (labels.rotation_y_rad[0], labels.scores[0]) == (-1.47, 0.75)


def test_score_is_optional_line_by_line(tmp_path: Path) -> None:
    labels = read_text(tmp_path, f"{LINE}\n\n  \n{LINE} 0.5\r\n{DONT_CARE}")
    assert labels.types == ("Car", "Car", "DontCare")
    np.testing.assert_array_equal(labels.scores, [np.nan, 0.5, np.nan])


@pytest.mark.parametrize("text", ["", "\n", "  \n\n"])
def test_a_file_without_objects(tmp_path: Path, text: str) -> None:
    labels = read_text(tmp_path, text)
    assert len(labels) == 0 and labels.boxes_2d.shape == (0, 4)
    assert format_labels(labels) == format_labels(KittiLabels.empty()) == ""


@st.composite
def label_tables(draw: st.DrawFn) -> KittiLabels:
    """Labels whose numbers are short enough for the file: two digits in pixels, four elsewhere."""
    rows = draw(st.lists(st.lists(st.integers(-10_000_000, 10_000_000), min_size=15, max_size=15), max_size=5))
    numbers = np.array(rows, np.float64).reshape(len(rows), 15) / 1e4
    numbers[:, 0:2] = np.round(numbers[:, 0:2])
    numbers[:, 3:7] = np.round(numbers[:, 3:7], 2)
    scored = draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    numbers[:, 14] = np.where(np.array(scored, bool), numbers[:, 14], np.nan)
    names = draw(st.lists(st.sampled_from(["Car", "Van", "Person_sitting"]), min_size=len(rows), max_size=len(rows)))
    return KittiLabels.from_table(tuple(names), numbers)


@given(labels=label_tables())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, labels: KittiLabels) -> None:
    found = read_text(tmp_path_factory.mktemp("labels"), format_labels(labels))
    assert found.types == labels.types
    for name in ("truncated", "occluded", "alpha_rad", "boxes_2d", "dimensions_m", "locations_m", "scores"):
        np.testing.assert_allclose(getattr(found, name), getattr(labels, name), rtol=0, atol=1e-9, err_msg=name)


def test_select_keeps_rows_together(tmp_path: Path) -> None:
    labels = read_text(tmp_path, f"{LINE} 0.1\n{DONT_CARE} 0.2\n{LINE} 0.3\n")
    kept = labels.select(np.array([True, False, True]))
    assert kept.types == ("Car", "Car")
    assert kept.scores.tolist() == [0.1, 0.3]
    assert len(labels.select(np.zeros(3, bool))) == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{LINE}\n{LINE[:-8]}\n", "line 2: 14 columns, expected 15, or 16 with a score"),
        (f"{LINE} 0.5 0.6\n", "line 1: 17 columns"),
        (f"\n{LINE.replace('0.25', 'zero')}\n", "line 2: could not convert string to float"),
        (LINE.replace("0.25", "nan"), "line 1: holds NaN or infinity"),
        (f"{LINE} inf", "line 1: holds NaN or infinity"),
        ("\x00" * 50, "line 1: 1 columns"),
        (LINE.replace("0.25", "1e300"), r"line 1: holds 1e\+300; expected at most 1e\+06"),
        (LINE.replace("0.25", "x" * 100_000), r"line 1: could not convert string to float: 'x{60,80}; expected"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(LabelError, match=rf"000000\.txt, {found}"):
        read_text(tmp_path, text)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(LINE, encoding=encoding)
    if encoding == "utf-8-sig":  # the mark is no part of the first name
        assert read_labels(path).types == ("Car",)
    else:
        with pytest.raises(LabelError, match="line 1: "):
            read_labels(path)


def test_no_device_is_read_and_no_line_of_10_mb(tmp_path: Path) -> None:
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "long.txt").write_bytes(b"9" * 10_000_000)
    for name, found in (("zero", "no regular file"), ("long", "10000000 bytes, expected at most")):
        with pytest.raises(LabelError, match=rf"{name}\.txt: .*{found}"):
            read_labels(tmp_path / f"{name}.txt")


def test_missing_folder_and_huge_files(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    with (tmp_path / "huge.txt").open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)
    for name, found in (("gone", "cannot be read"), ("folder", "cannot be read"), ("huge", "expected at most")):
        with pytest.raises(LabelError, match=rf"{name}\.txt: .*{found}"):
            read_labels(tmp_path / f"{name}.txt")


def test_columns_of_other_lengths_are_refused() -> None:
    columns = vars(KittiLabels.empty())
    with pytest.raises(ValueError, match=r"scores has shape \(1,\), expected \(0,\)"):
        KittiLabels(**{**columns, "scores": np.zeros(1)})
    with pytest.raises(ValueError, match=r"boxes_2d has shape \(0, 3\), expected \(0, 4\)"):
        KittiLabels(**{**columns, "boxes_2d": np.zeros((0, 3))})


def test_real_files_give_themselves_back(shared: Path, tmp_path: Path) -> None:
    files = sorted((shared / "kitti/training/label_2").glob("*.txt"))
    assert len(files) == 209
    objects = 0
    for file in files:
        labels = read_labels(file)
        again = read_text(tmp_path, format_labels(labels))
        assert again.types == labels.types
        np.testing.assert_array_equal(again.locations_m, labels.locations_m)
        np.testing.assert_array_equal(again.boxes_2d, labels.boxes_2d)
        objects += len(labels)
    assert objects > 1000
