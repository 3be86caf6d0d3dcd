"""Set the defaults that other packages read from the environment when they are imported.

The packages of gCIS call `set_defaults` before they import anything else. Variables that the user has set are
never changed.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from types import MappingProxyType

from gcis_runtime.platforms import user_id, user_is_known

NO_REPORTS = MappingProxyType(
    {
        "DO_NOT_TRACK": "1",  # several packages, among them huggingface_hub
        "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime 1.29 and later: reports each start to Microsoft
        "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, used by open_clip, timm and MONAI
        "RAY_USAGE_STATS_ENABLED": "0",  # ray, optional in MONAI
        "WANDB_ERROR_REPORTING": "false",  # wandb, optional in MONAI and open_clip
        "MLFLOW_DISABLE_TELEMETRY": "true",  # mlflow, optional in MONAI
        "NO_ALBUMENTATIONS_UPDATE": "1",  # albumentations, optional in timm: looks for a new version
        "GRADIO_ANALYTICS_ENABLED": "False",  # gradio
    }
)
"""Variables that stop packages from reporting their use over the network; see also `openvino.quiet_import`,
since OpenVINO has no such variable. matplotlib, nibabel, torch and MONAI itself send nothing."""

_USER_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Variables that `getpass.getuser` reads before it asks the system."""


def set_defaults(environment: MutableMapping[str, str] = os.environ) -> None:
    """Switch off the usage reports of other packages, and name a user whom the system does not know.

    MONAI and torch ask for the user's name when they are imported. They fail if the system has no entry for
    the user id, as in containers that run with an arbitrary one.

    Args:
        environment: Environment variables to change.
    """
    for name, value in NO_REPORTS.items():
        environment.setdefault(name, value)
    if not any(environment.get(name) for name in _USER_NAMES) and not user_is_known():
        environment["USER"] = f"uid-{user_id()}"
