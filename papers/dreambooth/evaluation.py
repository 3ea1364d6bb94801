"""What DreamBooth's own table says."""

from __future__ import annotations

PAPER: dict[str, dict[str, float]] = {  # table 1, 30 subjects with 25 prompts [verified in two transcriptions]
    "real images": {"DINO": 0.774, "CLIP-I": 0.885},
    "DreamBooth": {"DINO": 0.668, "CLIP-I": 0.803, "CLIP-T": 0.305},  # on Stable Diffusion
    "Textual Inversion": {"DINO": 0.569, "CLIP-I": 0.780, "CLIP-T": 0.255},
}
