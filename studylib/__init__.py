"""Tools shared by the paper notebooks: a tiny trained text-to-image world, attention hooks, metrics, runs.

The package knows no paper by name; what is true of one paper only lives in `papers/<slug>`.
"""

import os

# torchvision is not needed anywhere here; without this transformers says once per image processor that it is missing
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

__version__ = "0.1.0"
