"""Regions: choose the part of a volume that is segmented."""
