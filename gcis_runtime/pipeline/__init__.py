"""Segment one volume: forecast, compute and measure."""
