"""Steps per second of DreamBooth's training against the usual script's: every weight of the denoiser.

Run from the repository's root: `python -m tests.bench.bench_dreambooth`
"""

from papers.dreambooth.method import DreamBoothConfig, train
from tests.bench.training_script import SETTINGS, compare

CONFIG = DreamBoothConfig(train_text_encoder=False, **SETTINGS)

if __name__ == "__main__":
    compare("all weights", lambda *pictures: train(*pictures, CONFIG).history, lora=False)
