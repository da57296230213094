"""The plan of a network: which step runs on which tiles, or densely, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kernels.decode import REGRESSION_CHANNELS
from kernels.unit import Unit
from models.errors import ModelError
from models.graph import Graph, read_graph
from models.network import REGRESSION_NAME, SCORE_NAME, Network
from models.steps import ConvStep, DenseStep, Map, PointwiseStep, Step, TileStep, UnitStep

GRID_TILE = 16  # cells of a side of the grid's tiles, which masks are reduced to


@dataclass(frozen=True)
class StageChoice:
    """How the steps of one stage (all maps of one stride) run.

    Attributes:
        tile_cells: cells of a side of a tile, on the stage's maps.
        fuse_units: whether residual units run as one step.
        dense: whether the stage runs densely through onnxruntime.
    """

    tile_cells: int
    fuse_units: bool = False
    dense: bool = False


@dataclass(frozen=True)
class PlannedStep:
    """One line of the plan.

    Attributes:
        step: what runs.
        made: the map that it makes; None for a dense piece.
        tile_cells: cells of a side of its tiles; None for a dense piece.
        why: what kept a dense piece off the tiles, else empty.
    """

    step: Step
    made: Map | None
    tile_cells: int | None
    why: str = ""


@dataclass(frozen=True)
class Plan:
    """A network, ready to run on tiles.

    Attributes:
        graph: the ONNX model and its maps.
        steps: what runs, in order.
        choices: by stride.
    """

    graph: Graph
    steps: tuple[PlannedStep, ...]
    choices: Mapping[int, StageChoice]

    @property
    def maps(self) -> Mapping[str, Map]:
        """All maps by name."""
        return self.graph.maps

    @property
    def operations(self) -> int:
        """Multiplications and additions of a dense run of the steps on tiles."""
        return sum(line.step.operations(line.made) for line in self.steps if line.made is not None)


def default_choice(stride: int) -> StageChoice:
    """What runs where nobody has measured: tiles of 16 grid cells, but at least one patch of Winograd's."""
    return StageChoice(max(4, GRID_TILE // stride))


def tile_sizes(stride: int) -> list[int]:
    """Tiles of a stage that cover whole tiles of the grid, from one of them up."""
    least = max(1, GRID_TILE // stride)
    return [size for size in (least, 2 * least, 4 * least, 8 * least) if size * stride <= 8 * GRID_TILE]


def make_plan(network: Network, choices: Mapping[int, StageChoice] | None = None) -> Plan:
    """The plan of a network.

    Args:
        network: the network.
        choices: by stride; stages that are missing run as `default_choice` says.

    Raises:
        ModelError: if the file is no ONNX that a pipeline can run, or a tile size does not fit the grid's tiles.
    """
    dense = frozenset(stride for stride, choice in (choices or {}).items() if choice.dense)
    graph = read_graph(network.content, str(network.path), dense)
    _check_ends(network, graph)
    strides = {made.stride for made in graph.maps.values()}
    chosen = {stride: default_choice(stride) for stride in sorted(strides)} | dict(choices or {})
    for stride, choice in chosen.items():
        if choice.tile_cells < 1 or choice.tile_cells * stride % GRID_TILE:
            raise ModelError(
                f"stage /{stride}: tiles of {choice.tile_cells} cells; expected a multiple of {GRID_TILE} grid cells"
            )
    graph = replace(graph, steps=_fused(graph, {s for s, choice in chosen.items() if choice.fuse_units}))
    return Plan(graph, tuple(_planned(graph, step, chosen) for step in graph.steps), chosen)


def _check_ends(network: Network, graph: Graph) -> None:
    """The sizes of a detector's input and outputs, against its metadata; mask networks look after themselves."""
    if SCORE_NAME not in graph.outputs:
        return
    spec, stride = network.info.grid, network.info.output_stride
    cells = -(-spec.rows // stride), -(-spec.cols // stride)
    expected = {
        graph.input_name: (1, *spec.shape),
        SCORE_NAME: (1, *cells, 1),
        REGRESSION_NAME: (1, *cells, REGRESSION_CHANNELS),
    }
    for name in (graph.input_name, *graph.outputs):
        made = graph.maps.get(name)
        if name in expected and (made is None or made.shape != expected[name]):
            found = "no map" if made is None else made.shape
            raise ModelError(f"{network.path}: '{name}' is {found}, its metadata says {expected[name]}")


def _planned(graph: Graph, step: Step, choices: Mapping[int, StageChoice]) -> PlannedStep:
    if isinstance(step, DenseStep):
        return PlannedStep(step, None, None, step.why)
    made = graph.maps[step.target]
    choice = choices[made.stride]
    return PlannedStep(step, made, choice.tile_cells)


def _fused(graph: Graph, strides: set[int]) -> list[Step]:
    """The steps with residual units of these stages put together."""
    steps = list(graph.steps)
    for step in graph.steps:
        if isinstance(step, ConvStep) and step.residual is not None and graph.maps[step.target].stride in strides:
            members = _unit_before(graph, steps, step)
            if members is not None:
                place = steps.index(step)
                steps[place] = _unit_step(members)
                for member in members[:-1]:
                    steps.remove(member)
                    graph.maps.pop(member.target)
    return steps


def _unit_before(graph: Graph, steps: list[Step], last: ConvStep) -> list[TileStep] | None:
    """The steps from the residual's map to ``last``, if they form a unit and nobody else reads between them."""
    members: list[TileStep] = [last]
    readers = [source for step in steps for source in step.sources] + list(graph.outputs)
    while members[0].sources[0] != last.residual:
        source = members[0].sources[0]
        makers = [step for step in steps if not isinstance(step, DenseStep) and step.target == source]
        if len(makers) != 1 or readers.count(source) != 1 or isinstance(members[0], PointwiseStep):
            return None
        members.insert(0, makers[0])
    first, convolutions = members[0], [step for step in members if isinstance(step, ConvStep)]
    before = isinstance(first, PointwiseStep) and first.activation == "relu" and first.scale is not None
    fits = all(
        conv.filters.stride == 1
        and not conv.filters.transposed
        and conv.filters.weights.shape[0] == conv.filters.weights.shape[1]
        and conv.filters.padding == (conv.filters.weights.shape[0] // 2,) * 2
        and conv.filters.weights.shape[0] % 2 == 1
        for conv in convolutions
    )
    chained = all(conv.relu and conv.residual is None for conv in convolutions[:-1])
    plain = first.sources == (last.residual,) and len(convolutions) > 1
    return members if fits and chained and plain and len(members) == len(convolutions) + before else None


def _unit_step(members: list[TileStep]) -> UnitStep:
    first, last = members[0], members[-1]
    assert isinstance(last, ConvStep)
    layers = tuple(step.filters for step in members if isinstance(step, ConvStep))
    scale, shift = (first.scale, first.shift) if isinstance(first, PointwiseStep) else (None, None)
    return UnitStep(first.sources[0], last.target, Unit(layers, scale, shift, relu=last.relu))
