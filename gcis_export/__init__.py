"""Export of a checkpoint and prompts as a verified bundle."""

from gcis_runtime.dependencies import set_defaults

set_defaults()
