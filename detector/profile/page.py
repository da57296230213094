"""A profile as one HTML page that needs nothing else: no script, no network, no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

import numpy as np

from detector.profile.charts import draw_charts
from detector.profile.measure import Picture
from detector.profile.record import MODE_NAMES, P99_FRAMES, PERCENTILES, fact_lines, machine_line

METHOD = (
    "Each way of running has a process of its own, and they take turns, so that none takes cores, caches or memory "
    "from another, and a change of the machine's mood meets all.",
    "Dense is onnxruntime at its best: all its optimisations, its threads waiting busily, conversion of the layout "
    "included. It also runs mask and reduce, which cost it next to nothing.",
    "Files were read once before, so load is reading and parsing from memory, not from a disk.",
)


def make_page(record: Mapping[str, Any], pictures: Sequence[Picture]) -> str:
    """The page.

    Args:
        record: from `make_record`.
        pictures: of the slowest frames.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    template = Template(resources.files("detector.profile").joinpath("page.html").read_text(encoding="utf-8"))
    where = ", ".join(record["sources"])
    return template.substitute(
        title=escape(f"Latency of {record['model']['name']} on {where}"),
        machine=escape(machine_line(record)),
        cards=_cards(record),
        table=_table(record),
        tail=escape(_tail(record)),
        worst="\n".join(_figure(record, picture) for picture in pictures),
        method="\n".join(f"<li>{escape(line)}</li>" for line in (*fact_lines(record), *METHOD)),
        **draw_charts(record),
    )


def _cards(record: Mapping[str, Any]) -> str:
    """The few numbers to look at first: speed-up, then a card per mode, then the tiles."""
    speedup, tiles = record["speedup"], record["tile_fraction"]
    network = f"network {speedup['backbone']:.2f}×"
    cards = [_card("text", "speed-up", f"{speedup['total']:.2f}×", "of the whole frame", network)]
    for mode, values in record["modes"].items():
        total = values["total"]
        tail = f"p95 {total['p95_ms']:.1f}, p99 {total['p99_ms']:.1f}"
        rate, memory = f"{values['fps']:.1f} frames/s", f"peak {values['peak_mb']:,.0f} MB"
        cards.append(_card(mode, MODE_NAMES[mode], f"{total['p50_ms']:.1f} ms", tail, rate, memory))
    work = f"{record['computed_fraction']:.1%} of the operations"
    cards.append(_card("text", "active tiles", f"{tiles['p50']:.1%}", f"p95 {tiles['p95']:.1%}", work))
    return "\n".join(cards)


def _card(role: str, name: str, number: str, *lines: str) -> str:
    below = "".join(f"<span>{line}</span>" for line in lines)
    accent = f"--accent: var(--{role})"
    return f'<div class="card" style="{accent}"><span class="name">{escape(name)}</span><b>{number}</b>{below}</div>'


def _table(record: Mapping[str, Any]) -> str:
    """Stages down, modes and percentiles across."""
    modes = record["modes"]
    heads = [
        f'<th class="first" scope="colgroup" colspan="{len(PERCENTILES)}" style="--accent: var(--{mode})">'
        f"{escape(MODE_NAMES[mode])}</th>"
        for mode in modes
    ]
    names = _cells("th scope='col'", PERCENTILES) * len(modes)
    rows = []
    for stage in (*modes["dense"]["stages"], "total"):
        cells = []
        for values in modes.values():
            row = values["total"] if stage == "total" else values["stages"][stage]
            cells.append(_cells("td", [f"{row[f'{name}_ms']:.2f}" for name in PERCENTILES]))
        kind = ' class="total"' if stage == "total" else ""
        rows.append(f'<tr{kind}><th scope="row">{stage}</th>{"".join(cells)}</tr>')
    head = f"<tr><th></th>{''.join(heads)}</tr><tr><th scope='col'>stage</th>{names}</tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _cells(tag: str, texts: Sequence[str]) -> str:
    """Table cells, the first set apart from what stands left of it."""
    end = tag.split()[0]
    return "".join(f"<{tag}{' class=first' if number == 0 else ''}>{text}</{end}>" for number, text in enumerate(texts))


def _tail(record: Mapping[str, Any]) -> str:
    count = record["frames"] * record["loop"]
    beyond = max(round(count / 100), 1)
    few = f"; {P99_FRAMES:,} make a p99 worth reading" if count < P99_FRAMES else ""
    return f"{count:,} runs of frames per mode, so {beyond} of them lie at or beyond a p99{few}."


def _figure(record: Mapping[str, Any], picture: Picture) -> str:
    """A frame's picture and what it cost."""
    name, tiles = record["frame_ids"][picture.index], record["tiles"]
    sparse_ms, dense_ms = (
        float(np.median(record["modes"][mode]["frame_ms"][picture.index :: record["frames"]]))
        for mode in ("sparse", "dense")
    )
    active = tiles["active"][picture.index]
    about = f"frame {name}: bird's-eye view with active tiles and detected cars"
    data = base64.b64encode(picture.png).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(about)}">'
        f"<figcaption><b>{escape(name)}: {sparse_ms:.1f} ms</b> sparse, {dense_ms:.1f} ms dense, "
        f"{active:,} of {tiles['total']:,} tiles</figcaption></figure>"
    )
