"""One volume: forecast, segment, measure."""
