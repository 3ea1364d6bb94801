"""Tools shared by the paper notebooks: a tiny trained text-to-image world, attention hooks, metrics, runs.

The package knows no paper by name; what is true of one paper only lives in `papers/<slug>`.
"""

import os

# torchvision is not needed anywhere here; without this transformers says once per image processor that it is missing
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

# Threads that wait for each other spin, and spin on while another program has their core: beside two busy programs
# a forward took over 20 times as long. A bounded spin keeps the speed: 5,000 turns do, 2,000 do not. It is read when
# torch is imported; a setting of the user's own wins.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
    os.environ["GOMP_SPINCOUNT"] = "5000"

__version__ = "0.1.0"
