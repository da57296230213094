"""Random numbers that depend on nothing but what they are for: the same for any thread, block or order of rays.

A ray's stream is a hash of the sweep's seed and the ray's number, a draw a hash of the stream and the draw's purpose.
The mixing function is the 32-bit "lowbias32" of Chris Wellons' search for integer hashes (2018).
"""

from __future__ import annotations

import math
from typing import Any

_MASK = 0xFFFFFFFF


def mix(number: Any) -> Any:
    """A 32-bit number from any integer; neighbours give unrelated ones."""
    number = number & _MASK
    number = ((number ^ (number >> 16)) * 0x7FEB352D) & _MASK
    number = ((number ^ (number >> 15)) * 0x846CA68B) & _MASK
    return number ^ (number >> 16)


def build_draws(jit: Any) -> tuple[Any, Any, Any]:
    """``stream(seed, ray)``, ``uniform(stream, purpose)`` in (0, 1) and ``normal(stream, purpose)``, by one compiler.

    ``normal`` is a sum of four uniform numbers of 16 bits, which saves a logarithm and a root: no value is beyond
    3.5 standard deviations.
    """
    mixed = jit(mix)
    scale = 1 / math.sqrt(4 / 12)

    @jit
    def stream(seed: Any, ray: Any) -> Any:
        return mixed(mixed(seed) + ray * 0x9E3779B1)

    @jit
    def uniform(stream: Any, purpose: Any) -> Any:
        return (mixed(stream + purpose * 0x85EBCA77) + 0.5) / 4294967296.0

    @jit
    def normal(stream: Any, purpose: Any) -> Any:
        a = mixed(stream + purpose * 0x85EBCA77)
        b = mixed(a + 0x9E3779B1)
        total = (a & 0xFFFF) + (a >> 16) + (b & 0xFFFF) + (b >> 16)
        return ((total + 2.0) / 65536.0 - 2.0) * scale

    return stream, uniform, normal
