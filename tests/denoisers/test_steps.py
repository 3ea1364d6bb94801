"""The clock: what step a forward is, whatever calls the denoiser and however often."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, FlowMatchEulerDiscreteScheduler, HeunDiscreteScheduler
from torch import nn

from studylib.denoisers.steps import Clock, new_schedule
from tests.tiny_pipelines import sd


class Net(nn.Module):
    """Notes what its clock says while it runs; `inside` runs it again at other timesteps from within."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock(self)
        self.seen: list = []

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor | float, inside: tuple = ()) -> torch.Tensor:
        for other in inside:
            self(sample, other)
        self.seen.append((self.clock.now.schedule, self.clock.step))
        return sample


def moments(*timesteps) -> list[tuple[int, int | None]]:
    """(schedule, step) of each of these timesteps; None stands for `new_schedule`."""
    net = Net()
    with net.clock.running():
        for timestep in timesteps:
            new_schedule(net) if timestep is None else net(torch.zeros(1), timestep)
    return net.seen


def grid(scheduler, steps: int = 5) -> list:
    scheduler.set_timesteps(steps)
    return list(scheduler.timesteps)


def test_a_schedule_is_counted_once_whatever_the_passes():
    """Two passes at one timestep, as with guidance, are one step."""
    assert moments(801, 801, 401, 401, 1.0) == [(0, 0), (0, 0), (0, 1), (0, 1), (0, 2)]
    assert moments(*grid(DDIMScheduler())) == [(0, i) for i in range(5)]
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert moments(*grid(flow)) == [(0, i) for i in range(5)]
    heun = grid(HeunDiscreteScheduler(), 3)  # evaluates most timesteps twice
    assert [step for _, step in moments(*heun)] == [0, 1, 1, 2, 2]


def test_a_second_schedule_counts_from_zero():
    """The same one again, another one, and one that turns round."""
    again = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert moments(801, 401, 1, 801, 401, 1) == again
    assert moments(801, 401, 1, 901, 601, 301) == again
    assert moments(1, 401, 801, 601, 301, 101) == again


def test_inversion_then_sampling_where_they_meet_at_one_timestep():
    """Without a word the meeting point would be taken for a second pass; `new_schedule` is that word."""
    up = grid(DDIMInverseScheduler(), 3)
    down = up[::-1]
    assert moments(*up, None, *down) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert moments(*up, None, None, *down) == moments(*up, None, *down)  # told by both, counted once
    assert moments(None, *up) == moments(*up)


def test_a_forward_inside_a_forward_does_not_move_the_count():
    """A hook may run the denoiser on another picture or at another timestep."""
    net = Net()
    with net.clock.running():
        net(torch.zeros(1), 801, inside=(801, 7))
        net(torch.zeros(1), 401, inside=(999,))
        net(torch.zeros(1), 1)
    outer = [net.seen[i] for i in (2, 4, 5)]
    assert outer == [(0, 0), (0, 1), (0, 2)] and net.seen[0] == (0, 0)
    assert net.clock.now is None and net.clock.step is None and "forward" not in net.__dict__


def test_each_block_has_a_clock_of_its_own():
    """An inner block counts from its own beginning."""
    net = Net()
    with net.clock.running():
        net(torch.zeros(1), 801)
        outer, net.clock = net.clock, Clock(net)
        with net.clock.running():
            net(torch.zeros(1), 401)
        net.clock = outer
        net(torch.zeros(1), 1)
    assert net.seen == [(0, 0), (0, 0), (0, 2)]


def test_rows_of_different_timesteps_have_no_step():
    """As in training; and they do not disturb the count."""
    mixed = torch.tensor([10, 20])
    assert moments(801, mixed, torch.tensor([401, 401])) == [(0, 0), (0, None), (0, 1)]


def test_a_module_without_timesteps_has_moments_without_steps():
    """Hooks on text encoders and autoencoders; a denoiser that leaves its timestep out is an error."""
    encoder = sd().text_encoder
    clock, seen = Clock(encoder), []
    assert not clock.timed
    handle = encoder.get_input_embeddings().register_forward_hook(lambda *_: seen.append(clock.now))
    with clock.running():
        encoder(torch.zeros(1, 4, dtype=torch.long))
    handle.remove()
    assert (seen[0].step, seen[0].timestep, list(seen[0].inputs)) == (None, None, ["input_ids"])
    net = Net()
    with net.clock.running(), pytest.raises(RuntimeError, match="ran without a timestep"):
        net(torch.zeros(1), None)


def test_gradient_checkpointing_is_refused():
    """The backward pass would run hooked modules again, at no step."""
    unet = sd().unet
    unet.enable_gradient_checkpointing()
    unet.train()
    sample, text = torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 32)
    with Clock(unet).running():
        with pytest.raises(RuntimeError, match="disable_gradient_checkpointing"):
            unet(sample, 5, text)
        with torch.no_grad():
            unet(sample, 5, text)
