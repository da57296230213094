"""Kernels as a graph: what is asked of the driver and when, told by a driver made up for it."""

import ctypes
from types import SimpleNamespace

import pytest

from kernels import cuda_graph
from kernels.cuda_graph import MOST_GRAPHS, GraphCache
from kernels.launch import on_stream, stream

REFUSED = 900
PRIVATE, GRAPH, EXECUTABLE = 11, 22, 33


class Driver:
    """Notes what it is asked, with the handles that it was given; refuses one call."""

    def __init__(self, refuses=""):
        self.asked, self.refuses = [], refuses

    def __getattr__(self, name):
        def ask(*arguments):
            values = [argument.value if isinstance(argument, ctypes.c_void_p) else argument for argument in arguments]
            made = {"cuStreamCreate": (0, PRIVATE), "cuStreamEndCapture": (1, GRAPH),
                    "cuGraphInstantiateWithFlags": (0, EXECUTABLE)}  # fmt: skip
            if name in made and name != self.refuses:
                place, handle = made[name]
                arguments[place]._obj.value = handle
            self.asked.append((name, *(value for value in values if isinstance(value, int))))
            return REFUSED if name == self.refuses else 0

        return ask

    @property
    def names(self):
        return [name for name, *_ in self.asked]


@pytest.fixture
def driver(monkeypatch):
    return place(monkeypatch, Driver())


def place(monkeypatch, driver):
    monkeypatch.setattr(cuda_graph, "SIMULATED", False)
    monkeypatch.setattr(cuda_graph, "load_driver", lambda: driver)
    monkeypatch.setattr("kernels.launch.cuda.current_context", lambda: None)
    monkeypatch.setattr(
        cuda_graph, "cuda", SimpleNamespace(current_context=lambda: None, external_stream=lambda handle: handle)
    )
    return driver


def array(address, shape=(2,)):
    return SimpleNamespace(__cuda_array_interface__={"data": (address, False)}, shape=shape)


def test_queued_then_recorded_then_launched(driver):
    queued_on, cache = [], GraphCache()
    with on_stream(7):
        for _ in range(4):
            cache.run(lambda: queued_on.append(stream()), array(1))
        assert stream() == 7
    assert queued_on == [7, PRIVATE], "once for real, once to be recorded"
    record = ["cuStreamCreate", "cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuStreamDestroy_v2",
              "cuGraphInstantiateWithFlags", "cuGraphDestroy"]  # fmt: skip
    assert driver.names == record + ["cuGraphLaunch"] * 3
    assert driver.asked[0] == ("cuStreamCreate", 1) and driver.asked[1] == ("cuStreamBeginCapture_v2", PRIVATE, 2)
    assert driver.asked[5] == ("cuGraphDestroy", GRAPH) and driver.asked[-1] == ("cuGraphLaunch", EXECUTABLE, 7)
    del cache
    assert driver.asked[-1] == ("cuGraphExecDestroy", EXECUTABLE)


def test_other_arrays_have_a_graph_of_their_own(driver):
    cache, queued = GraphCache(), []
    for address, shape in ((1, (2,)), (2, (2,)), (1, (3,)), (1, (2,)), (2, (2,)), (1, (3,))):
        cache.run(lambda: queued.append(1), array(address, shape))
    assert len(queued) == 6 and driver.names.count("cuGraphInstantiateWithFlags") == 3
    for address in range(100, 100 + 2 * MOST_GRAPHS):  # of streams that come and go, beside one that stays
        for _ in range(2):
            cache.run(lambda: None, array(address))
            cache.run(lambda: queued.append(1), array(1))
    assert len(queued) == 6 and driver.names.count("cuGraphInstantiateWithFlags") == 3 + 2 * MOST_GRAPHS
    assert driver.names.count("cuGraphExecDestroy") == 3 + 2 * MOST_GRAPHS - MOST_GRAPHS, "the others are given back"


@pytest.mark.parametrize(
    "refuses", ["cuStreamCreate", "cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags",
                "cuGraphLaunch"]
)  # fmt: skip
def test_what_the_driver_refuses_is_queued(monkeypatch, refuses):
    driver, queued_on = place(monkeypatch, Driver(refuses)), []
    cache = GraphCache()
    for _ in range(3):
        cache.run(lambda: queued_on.append(stream()), array(1))
    assert queued_on[-2:] == [0, 0] and queued_on.count(0) == 3 and not cache.wanted
    assert driver.names.count(refuses) == 1, "asked once"
    assert ("cuStreamDestroy_v2" in driver.names) == (refuses != "cuStreamCreate")


def test_a_call_that_cannot_be_recorded_is_queued(driver):
    def call():
        if stream() == PRIVATE:
            raise OSError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
        queued.append(1)

    queued, cache = [], GraphCache()
    for _ in range(3):
        cache.run(call, array(1))
    assert len(queued) == 3 and "cuStreamEndCapture" in driver.names and "cuStreamDestroy_v2" in driver.names


def test_without_a_driver_and_where_it_is_not_wanted_nothing_is_recorded(monkeypatch):
    place(monkeypatch, None)
    for cache in (GraphCache(), GraphCache(wanted=False)):
        queued = []
        for _ in range(3):
            cache.run(lambda queued=queued: queued.append(1), array(1))
        assert len(queued) == 3 and not cache.wanted
