"""Train the routed segmentation network: read a datalist, write checkpoints."""

from gcis_runtime.dependencies import set_defaults

set_defaults()
