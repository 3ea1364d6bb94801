"""What JupyterLab, opened by `study lab`, writes of a notebook: nothing about this machine's kernel."""

from __future__ import annotations

from typing import Any

from studylib.running.notebook import METADATA

OPTION = f"--ContentsManager.pre_save_hook={__name__}.as_committed"  # of a Jupyter server


def as_committed(model: dict[str, Any], **_: Any) -> None:
    """Before a save: leave out the kernel's version and its editor's mode, so that reading a notebook is no change.

    `model` is the contents manager's, changed in place. A kernel that the reader chose stays chosen.
    """
    if model["type"] != "notebook" or not isinstance(model.get("content"), dict):
        return
    metadata = model["content"].setdefault("metadata", {})
    if metadata.get("language_info", {}).get("name") == "python":
        metadata["language_info"] = dict(METADATA["language_info"])
    if metadata.get("kernelspec", {}).get("name") == METADATA["kernelspec"]["name"]:
        metadata["kernelspec"] = dict(METADATA["kernelspec"])  # its display name differs between environments
