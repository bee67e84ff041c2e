"""What the fork server of the kill tests imports once: the command line's modules and the compiled index formulas.

Nothing here may open a table or a lake: threads do not survive a fork.
"""

import logging
import os

os.environ.setdefault("HAMILTON_AUTOLOAD_EXTENSIONS", "0")

import numpy as np

import dataflows.__main__
import dataflows.config
import dataflows.context_config
import dataflows.drivers
import dataflows.terminal
import dataflows.vhr_local_loader  # noqa: F401
import utils._s2_kernel  # noqa: F401
from store import lineage
from utils.indices import INDICES, spectral_index

logging.getLogger("hamilton").setLevel(logging.CRITICAL)
if hasattr(lineage, "stage_code"):
    # hashes of sources, cached by module
    lineage.stage_code(("dataflows.partition_loop", "dataflows.drivers", "dataflows.vhr_local_loader"))
for name, index in INDICES.items():
    spectral_index(name, dict.fromkeys(index.bands, np.ones((1, 2, 2), np.float32)))
