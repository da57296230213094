"""The kernel table: every op of the package, walked by the tests, the micro-benchmark and the docs."""

from __future__ import annotations

from kernels import (
    box_voting,
    cell_features,
    decode,
    height_above_ground,
    nms,
    pack_frame,
    reduce_mask,
    residual_unit,
    restore_tiles,
    rotated_iou,
    sparse_gather,
    sparse_scatter,
    spread_cells,
    tile_conv,
    tile_max_pool,
    tile_pointwise,
    voxelize,
)
from kernels.op import Op

OPS: tuple[Op, ...] = (
    *voxelize.OPS,
    *cell_features.OPS,
    *height_above_ground.OPS,
    *spread_cells.OPS,
    *reduce_mask.OPS,
    *restore_tiles.OPS,
    *sparse_gather.OPS,
    *sparse_scatter.OPS,
    *tile_conv.OPS,
    *residual_unit.OPS,
    *tile_pointwise.OPS,
    *tile_max_pool.OPS,
    *decode.OPS,
    *rotated_iou.OPS,
    *nms.OPS,
    *box_voting.OPS,
    *pack_frame.OPS,
)
