"""What the training loop lets its caller replace: optimiser, schedule, what is kept, what is shown on the way."""

import pytest
import torch

from studylib.learning.training import TrainingConfig, fit

CONFIG = TrainingConfig(steps=12, learning_rate=1e-2, ema_decay=0.9)


def toy():
    """A small network with a BatchNorm, batches, and their loss."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 4))

    def draw(generator):
        return {"x": torch.randn(8, 6, generator=generator)}

    def loss(batch):
        return (model(batch["x"]) - batch["x"][:, :4]).square().mean()

    return model, draw, loss


def trained(config=CONFIG, **options):
    """State of the network after a training, its statistics among it, and the history."""
    model, draw, loss = toy()
    buffers = dict(model.named_buffers())
    history = fit(dict(model.named_parameters()), draw, loss, config, buffers=buffers, **options)
    return model.state_dict(), history


def momentum(weights):
    """Two groups of SGD, each with its own peak."""
    inner, *rest = weights.values()
    return torch.optim.SGD([{"params": [inner], "lr": 0.1}, {"params": rest, "lr": 0.01}], momentum=0.9)


def equal(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_another_optimiser_and_its_state_survive_a_resume(tmp_path):
    """The state of any optimiser of torch, and buffers that the forward changes, belong to the checkpoint: else a
    resumed training would go another way without a word."""
    whole, _ = trained(make_optimiser=momentum)

    def interrupt(step):
        if step == 5:
            raise KeyboardInterrupt

    options = {"folder": tmp_path, "save_every": 0.0, "make_optimiser": momentum}
    with pytest.raises(KeyboardInterrupt):
        trained(after_step=interrupt, **options)
    resumed, history = trained(**options)
    assert equal(whole, resumed) and len(history.rows) == 12
    assert not equal(whole, trained()[0])


def test_a_schedule_sets_every_group_and_may_end_the_training(tmp_path):
    """A time budget ends before the steps do; each group keeps its own peak. A finished training stays finished."""
    seen, rates = [], []
    optimisers = []

    def make(weights):
        optimisers.append(momentum(weights))
        return optimisers[-1]

    def schedule(step, seconds):
        seen.append((step, seconds))
        return None if step == 4 else 1 / (step + 1)

    def look(_):
        rates.append([group["lr"] for group in optimisers[-1].param_groups])

    options = {"folder": tmp_path, "make_optimiser": make, "schedule": schedule}
    state, history = trained(after_step=look, **options)
    assert [step for step, _ in seen] == [0, 1, 2, 3, 4] and len(history.rows) == 4
    assert seen[0][1] == 0 and all(a[1] < b[1] for a, b in zip(seen, seen[1:], strict=False))
    assert sum(rates, []) == pytest.approx([peak / n for n in (1, 2, 3, 4) for peak in (0.1, 0.01)])
    again, _ = trained(after_step=lambda step: 1 / 0, **options)
    assert equal(state, again)


def test_what_is_shown_is_averaged_and_leaves_the_training_alone():
    """The sheet on the way must show the weights that will be kept, and the training must not notice."""
    model, draw, loss = toy()
    shown, last = [], []

    def show(history):
        assert not torch.is_grad_enabled()
        torch.rand(3)  # drawing pictures takes random numbers
        shown.append((len(history.rows), model[0].weight.clone()))

    def look(_):
        last.append(model[0].weight.clone())

    fit(dict(model.named_parameters()), draw, loss, CONFIG, show=show, show_every=0.0, after_step=look)
    assert [step for step, _ in shown] == [*range(1, 13), 12]
    assert not torch.equal(shown[5][1], last[5])
    undisturbed, draw, loss = toy()
    fit(dict(undisturbed.named_parameters()), draw, loss, CONFIG)
    assert equal(undisturbed.state_dict(), model.state_dict()) and torch.equal(shown[-1][1], model[0].weight)
