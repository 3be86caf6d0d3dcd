"""A verified bundle in other people's formats: a Triton model repository, a MONAI bundle."""
