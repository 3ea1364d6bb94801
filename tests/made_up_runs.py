"""Records of runs that never ran, for tests of what is made of records."""

import json
from pathlib import Path
from typing import Any

PARAMS = {"share": True, "steps": 3, "seed": 0, "strength": 0.5, "mode": "plain", "limit": None}
CLAIMS = {
    "identity": {"verdict": "held", "effect": 0.0, "interval": None, "paper": ""},
    "rises": {"verdict": "undecided", "effect": 0.25, "interval": [-0.5, 1.0], "paper": "0.5 [verified]"},
    "liked": {"verdict": "not testable here", "effect": None, "interval": None, "paper": ""},
}


def make_run(root: Path, id: str, minute: int = 0, slug: str = "mini", **changed: Any) -> Path:
    """Write a record below `root/runs`, with fields `changed`, and return its folder."""
    record = {
        "slug": slug,
        "run_id": id,
        "status": "finished",
        "params": PARAMS,
        "preset": None,
        "seconds": 1.5,
        "peak_memory_mib": 100.0,
        "device": "cpu",
        "versions": {"python": "3.11.1"},
        "hardware": {"processor": "one"},
        "weights": {},
        "git_commit": None,
        "started_at": f"2026-01-01T10:{minute:02}:00+00:00",
        "metrics": {"score": 0.5, "score · β": 2.0},
        "claims": CLAIMS,
    } | changed
    folder = root / "runs" / slug / id
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def params(**changed: Any) -> dict[str, Any]:
    """The made-up run's parameters with some `changed`."""
    return PARAMS | changed
