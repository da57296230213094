"""Prints what a plan is, for a test that plans a network in an environment that lacks nearly everything."""

import hashlib

from models.network import load_network
from models.plan import make_plan
from models.steps import ConvStep


def digest_of(name):
    """A hash of all steps of a shipped network, weights included."""
    digest = hashlib.sha256()
    for line in make_plan(load_network(name)).steps:
        step = line.step
        digest.update(repr((line.made, line.tile_cells, step.operator, step.sources, step.target)).encode())
        if isinstance(step, ConvStep):
            digest.update(step.filters.weights.tobytes() + step.filters.bias.tobytes())
    return digest.hexdigest()
