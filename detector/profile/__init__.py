"""Latency of every stage of a frame: sparse, dense, and sparse with all tiles active.

`measure` takes the times, each way of running in a process of its own; `make_record` turns them into the JSON that
`roadblocks profile` writes; `trace`, `page` and `compare` read that.
"""
