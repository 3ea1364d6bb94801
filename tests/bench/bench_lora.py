"""Steps per second of LoRA's training against the usual script's, with our layers here and peft's there.

Run from the repository's root: `python -m tests.bench.bench_lora`
"""

from papers.lora.method import LoRAConfig
from papers.lora.subject import train
from tests.bench.training_script import RANK, SETTINGS, compare

CONFIG = LoRAConfig(rank=RANK, lora_alpha=RANK, train_text_encoder=False, **SETTINGS)

if __name__ == "__main__":
    compare(f"LoRA of rank {RANK}", lambda *pictures: train(*pictures, CONFIG).history, lora=True)
