"""`python -m tools.benchmark stream` on a tiny network."""

import json

from click.testing import CliRunner

from tests.tiny_network import patch_points, write_model
from tools.benchmark.__main__ import main


def test_the_record_counts_every_arrival(tmp_path):
    (tmp_path / "drive").mkdir()
    for number in range(6):
        patch_points().tofile(tmp_path / "drive" / f"{number}.bin")
    (tmp_path / "tiny.yaml").write_text(f"model: {write_model(tmp_path / 'tiny.onnx')}\n")
    words = [
        "stream",
        str(tmp_path / "drive"),
        "--config",
        str(tmp_path / "tiny.yaml"),
        "--frames",
        "4",
        "--turns",
        "2",
    ]
    words += ["--rate", "200", "--rate", "5000", "--arrivals", "20"]
    result = CliRunner().invoke(main, [*words, "--json", "-"], catch_exceptions=False)
    record = json.loads(result.stdout)
    cores = record["machine"]["cores"]
    assert [through["threads"] for through in record["throughput"]] == [cores, cores - 1][:cores]
    for through in record["throughput"]:
        assert (through["frames"], len(through["plain_ms"]), len(through["overlapped_ms"])) == (4, 2, 2)
    assert [latest["rate_hz"] for latest in record["latest"]] == [200, 5000]
    for latest in record["latest"]:
        assert latest["frames"] + latest["dropped"] == 24, "whole loops"
        times = list(latest["latency"].values())
        assert times == sorted(times) and times[0] > latest["stages"]["backbone"]["p50_ms"]
        assert 0 < latest["peak_mb"]["start"] <= latest["peak_mb"]["end"]
    assert {"machine", "versions", "revision", "date", "load", "device"} <= set(record)
    assert "overlap, network on" in CliRunner().invoke(main, words).stdout
