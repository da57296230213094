"""LiDAR 3D vehicle detection on sparse blocks of bird's-eye-view grids."""
