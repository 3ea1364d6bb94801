"""What processes of one training exchange: their parts of a batch, features, gradients, and how they end."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather, reduce
from torch import Tensor, nn


def share(batch: Tensor) -> Tensor:
    """This process's part of a batch that all processes have drawn alike."""
    state = PartialState()
    return batch[state.process_index :: state.num_processes]


def gathered(features: Tensor) -> Tensor:
    """The features of the whole batch, from all processes, for losses that compare pictures with each other.

    Gradients flow through this process's own part. Each process has the whole loss but only its part of the gradient:
    it is scaled up so that the mean over processes, which `fit` takes, is the gradient of the loss.
    """
    state = PartialState()
    if state.num_processes == 1:
        return features
    whole = list(gather(features.detach()).split(len(features)))
    if features.requires_grad:
        still = features.detach()
        whole[state.process_index] = still + state.num_processes * (features - still)
    return torch.cat(whole)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes."""
    if PartialState().num_processes == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    means = reduce(torch.cat([g.flatten() for g in gradients]), "mean")
    for gradient, mean in zip(gradients, means.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def agreed(value: float, how: str = "first") -> float:
    """One number for all processes: the first one's, or the mean."""
    state = PartialState()
    if state.num_processes == 1:
        return value
    number = torch.tensor(value, dtype=torch.float64, device=state.device)
    return (broadcast(number) if how == "first" else reduce(number, "mean")).item()


def leave() -> NoReturn:
    """End this process, whose part in the training is over, without Python's finalisation.

    Gloo's threads may still hold the tensors of the last exchange; to free them they take the interpreter's lock, and
    one that asks for it during finalisation aborts the process (seen in one of six runs of two CPU processes).
    """
    PartialState().destroy_process_group()
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(0)
