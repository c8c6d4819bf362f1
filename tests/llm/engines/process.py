"""State of the process that an engine must not change."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any


def state_of_process() -> dict[str, Any]:
    import numpy as np
    import torch

    return {
        "python": random.getstate(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "set_num_threads": torch.set_num_threads,
        "dtype": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(),
        "excepthook": sys.excepthook,
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "log records": logging.getLogRecordFactory(),
        "root handlers": list(logging.getLogger().handlers),
        "environment": {k: v for k, v in os.environ.items() if not k.startswith("VLLM_")},
        "directory": Path.cwd(),
    }
