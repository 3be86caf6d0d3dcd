"""Voxel grids: resampling, grid transforms, boxes and preprocessing."""
