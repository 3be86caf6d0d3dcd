"""Writers of a finished bundle in the formats of other systems."""
