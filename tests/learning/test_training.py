"""The training loop of the papers: what it promises about repeating, resuming, sharing and leaving things alone."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from studylib.errors import StudyError
from studylib.learning.checkpoint import CHECKPOINT
from studylib.learning.training import TrainingConfig, fit, gradient_sizes

ROOT = Path(__file__).resolve().parents[2]


def toy(dropout: float = 0.0):
    """A small network, batches of a noisy regression, and their loss."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(16, 4)
        )
    wanted = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))

    def draw(generator):
        return {"x": torch.randn(8, 6, generator=generator)}

    def loss(batch):
        error = (model(batch["x"]) - batch["x"] @ wanted).square().mean()
        return {"loss": error, "size": batch["x"].abs().mean()}

    return model, draw, loss


def trained(config, dropout=0.0, **options):
    model, draw, loss = toy(dropout)
    history = fit(dict(model.named_parameters()), draw, loss, config, **options)
    return {name: weight.detach() for name, weight in model.named_parameters()}, history


def same(a, b) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_and_tells_how():
    """The loss must fall, and the history must hold every step of it, by name."""
    _, history = trained(TrainingConfig(steps=200, learning_rate=1e-2))
    assert len(history.rows) == 200 and history.parameters == 6 * 16 + 16 + 16 * 4 + 4
    assert history.column()[-1] < 0.3 * history.column()[0]
    assert history.seconds > 0 and set(history.rows[0]) == {"step", "loss", "size", "learning_rate", "seconds"}
    assert "to step 200" in repr(history.table(100))
    with pytest.raises(LookupError, match="size"):
        history.column("sizes")


def test_weights_that_the_loss_does_not_depend_on_are_named():
    """They would silently stay untrained, or break the first save."""
    model, draw, loss = toy()
    idle = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(StudyError, match="toy: 1 of 5 parameters got no gradient: idle"):
        fit({**dict(model.named_parameters()), "idle": idle}, draw, loss, TrainingConfig(2, 1e-3), label="toy")


def test_the_same_seed_gives_the_same_weights_and_leaves_random_state_alone():
    """Dropout draws from the global generator: it has to be seeded by the step, and put back."""
    config = TrainingConfig(steps=12, learning_rate=1e-2, seed=3)
    torch.manual_seed(5)
    first, _ = trained(config, dropout=0.5)
    after = torch.rand(3)
    torch.manual_seed(99)
    second, _ = trained(config, dropout=0.5)
    other, _ = trained(TrainingConfig(steps=12, learning_rate=1e-2, seed=4), dropout=0.5)
    torch.manual_seed(5)
    assert same(first, second) and not same(first, other)
    assert torch.equal(after, torch.rand(3))


KILLED = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_training import TrainingConfig, trained
    from safetensors.torch import save_file
    folder, pause = Path(sys.argv[1]), float(sys.argv[2])
    config = TrainingConfig(steps=60, learning_rate=1e-2, schedule="cosine", warmup_steps=5, ema_decay=0.9,
                            gradient_accumulation_steps=2)
    weights, history = trained(config, 0.3, folder=folder, save_every=0.0, after_step=lambda step: time.sleep(pause))
    save_file({{n: w.contiguous() for n, w in weights.items()}}, folder / "end.safetensors")
    print(len(history.rows), [row["loss"] for row in history.rows])
""")


def test_a_killed_training_ends_as_if_it_had_not_been(tmp_path):
    """kill -9 in mid-training, then the same call: weights and history equal an undisturbed run's, bit for bit, with
    dropout, averaged weights, a schedule and accumulation."""
    script = tmp_path / "train.py"
    script.write_text(KILLED.format(tests=str(Path(__file__).parent)))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    run = [sys.executable, script]
    undisturbed = subprocess.run([*run, whole, "0"], env=environment, check=True, capture_output=True, text=True)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    victim = subprocess.Popen([*run, torn, "0.1"], env=environment, **quiet)
    while not (torn / CHECKPOINT).exists():
        assert victim.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not (torn / "end.safetensors").exists()
    resumed = subprocess.run([*run, torn, "0"], env=environment, check=True, capture_output=True, text=True)
    assert resumed.stdout == undisturbed.stdout
    assert same(load_file(whole / "end.safetensors"), load_file(torn / "end.safetensors"))


def test_a_finished_training_is_not_repeated(tmp_path):
    """The same call again gives the same weights without a step."""
    config = TrainingConfig(steps=5, learning_rate=1e-2)
    first, _ = trained(config, folder=tmp_path)
    steps = []
    second, history = trained(config, folder=tmp_path, after_step=steps.append)
    assert same(first, second) and steps == [] and len(history.rows) == 5


def test_another_trainings_checkpoint_is_refused(tmp_path):
    """Going on from it would give weights that no configuration describes."""
    trained(TrainingConfig(steps=5, learning_rate=1e-2), folder=tmp_path)
    with pytest.raises(StudyError, match="learning_rate = 0.01 instead of 0.02"):
        trained(TrainingConfig(steps=5, learning_rate=2e-2), folder=tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(b"torn")
    with pytest.raises(StudyError, match="damaged"):
        trained(TrainingConfig(steps=5, learning_rate=1e-2), folder=tmp_path)


def test_accumulated_batches_make_one_large_batch():
    """Two halves accumulated give the gradient of the whole, so the weights agree to rounding."""
    model, _, loss = toy()
    rows = torch.randn(16, 6, generator=torch.Generator().manual_seed(2))
    parts = iter([rows[:8], rows[8:]])
    weights = dict(model.named_parameters())
    config = TrainingConfig(steps=1, learning_rate=1e-2, gradient_accumulation_steps=2)
    fit(weights, lambda _: {"x": next(parts)}, loss, config)
    other, _, whole_loss = toy()
    fit(dict(other.named_parameters()), lambda _: {"x": rows}, whole_loss, TrainingConfig(steps=1, learning_rate=1e-2))
    assert all(torch.allclose(weights[n], w, atol=1e-5) for n, w in other.named_parameters())


def test_only_what_was_given_is_trained():
    """Weights that were not named stay equal to the bit, and no gradient or flag is left behind."""
    model, draw, loss = toy()
    for weight in model.parameters():
        weight.requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    fit({"bias": model[0].bias}, draw, loss, TrainingConfig(steps=3, learning_rate=1e-2))
    changed = [name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])]
    assert changed == ["0.bias"]
    assert all(weight.grad is None and not weight.requires_grad for weight in model.parameters())


def test_a_call_under_no_grad_still_trains():
    """Notebooks sample under no_grad; a training called there must not fail or, worse, do nothing."""
    with torch.no_grad():
        _, history = trained(TrainingConfig(steps=30, learning_rate=1e-2))
    assert history.column()[-1] < history.column()[0]


def test_averaged_weights_lag_behind():
    """With EMA the end is the average over the way, not the last step."""
    last, _ = trained(TrainingConfig(steps=30, learning_rate=1e-2))
    average, _ = trained(TrainingConfig(steps=30, learning_rate=1e-2, ema_decay=0.95))
    start = dict(toy()[0].named_parameters())
    assert (average["0.weight"] - start["0.weight"]).norm() < (last["0.weight"] - start["0.weight"]).norm()


def test_bfloat16_trains_float32_weights():
    """Mixed precision is about the computation; the weights stay float32, and a plain training can follow."""
    weights, history = trained(TrainingConfig(steps=100, learning_rate=1e-2, mixed_precision="bf16"))
    assert weights["0.weight"].dtype == torch.float32 and history.column()[-1] < 0.6 * history.column()[0]
    plain, _ = trained(TrainingConfig(steps=100, learning_rate=1e-2))
    assert not same(weights, plain)


def test_what_cannot_be_trained_is_said():
    """Half-precision weights, no weights, and a loss that explodes each end in one clear error."""
    model, draw, loss = toy()
    with pytest.raises(ValueError, match="not float32, such as 0.weight"):
        fit(dict(model.half().named_parameters()), draw, loss, TrainingConfig(steps=1, learning_rate=1e-3))
    with pytest.raises(ValueError, match="no parameters"):
        fit({}, draw, loss, TrainingConfig(steps=1, learning_rate=1e-3))
    model, draw, _ = toy()
    with pytest.raises(StudyError, match="the loss is nan at step 1"):
        fit(dict(model.named_parameters()), draw, lambda batch: model(batch["x"]).mean() * float("nan"),
            TrainingConfig(steps=2, learning_rate=1e-3))


def test_a_hook_after_backward_sees_the_gradients_of_groups():
    """The wake-up order behind a zero layer: at first it alone has a gradient, the others have exactly none."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(6, 5), "zero": torch.nn.Linear(5, 4)})
    for weight in model["zero"].parameters():
        torch.nn.init.zeros_(weight)
    _, draw, _ = toy()
    seen = []

    def loss(batch):
        return (model["zero"](model["body"](batch["x"])) - batch["x"][:, :4]).square().mean()

    def look(step, gradients):
        seen.append((step, gradient_sizes(gradients, lambda name: name.split(".")[0])))

    fit(dict(model.named_parameters()), draw, loss, TrainingConfig(steps=2, learning_rate=1e-2), after_backward=look)
    (first, at_first), (second, then) = seen
    assert (first, second) == (1, 2) and at_first["body"] == 0.0 < at_first["zero"] and then["body"] > 0


def test_snapshots_are_kept_and_survive_a_resume(tmp_path):
    """The weights after chosen steps, 0 among them; a training that was cut off has the very same ones."""
    model, draw, loss = toy()
    weights = dict(model.named_parameters())
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    config = TrainingConfig(steps=6, learning_rate=1e-2)
    whole = fit(weights, draw, loss, config, keep=(0, 2, 6))
    assert sorted(whole.snapshots) == [0, 2, 6]
    assert all(torch.equal(start[name], kept) for name, kept in whole.snapshots[0].items())
    assert all(torch.equal(weights[name], kept) for name, kept in whole.snapshots[6].items())

    def interrupt(step):
        if step == 4:
            raise KeyboardInterrupt

    model, draw, loss = toy()
    options = {"folder": tmp_path, "save_every": 0.0, "keep": (0, 2, 6)}
    with pytest.raises(KeyboardInterrupt):
        fit(dict(model.named_parameters()), draw, loss, config, after_step=interrupt, **options)
    model, draw, loss = toy()
    resumed = fit(dict(model.named_parameters()), draw, loss, config, **options)
    for step, kept in whole.snapshots.items():
        assert all(torch.equal(weight, resumed.snapshots[step][name]) for name, weight in kept.items())
    with pytest.raises(ValueError, match="step 7 cannot be kept, the steps are 0 to 6"):
        fit(dict(model.named_parameters()), draw, loss, config, keep=(7,))


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    """The same settings on other photos must not go on from the first ones' weights."""
    model, draw, loss = toy()
    config = TrainingConfig(steps=3, learning_rate=1e-2)
    fit(dict(model.named_parameters()), draw, loss, config, folder=tmp_path)

    def other(generator):
        return {name: rows + 0.5 for name, rows in draw(generator).items()}

    model, *_ = toy()
    with pytest.raises(StudyError, match="belongs to a training on other data: first batch's x differ"):
        fit(dict(model.named_parameters()), other, loss, config, folder=tmp_path)
    fit(dict(model.named_parameters()), draw, loss, config, folder=tmp_path)  # its own data: nothing is left to do


@pytest.mark.parametrize("wrong", [
    {"steps": 0}, {"learning_rate": float("nan")}, {"schedule": "step"}, {"mixed_precision": "int8"},
    {"gradient_accumulation_steps": 0}, {"ema_decay": 1.0}, {"steps": True},
])  # fmt: skip
def test_a_config_refuses_what_has_no_meaning(wrong):
    """A wrong setting must stop before the first step, naming itself."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainingConfig(**{"steps": 10, "learning_rate": 1e-3} | wrong)


SHARED = textwrap.dedent("""
    import sys
    sys.path.insert(0, {tests!r})
    from accelerate import PartialState
    from safetensors.torch import save_file
    from studylib.learning.processes import leave
    from test_training import TrainingConfig, trained
    weights, history = trained(TrainingConfig(steps=40, learning_rate=1e-2, ema_decay=0.9))
    if not PartialState().is_main_process:
        leave()
    losses = {{"loss": weights["0.bias"].new_tensor(history.column())}}
    save_file({{n: w.contiguous() for n, w in weights.items()}} | losses, sys.argv[1])
""")


def test_two_processes_train_as_one_does(tmp_path):
    """`accelerate launch` with two processes: they share each batch, so losses and weights are one process's."""
    script = tmp_path / "train.py"
    script.write_text(SHARED.format(tests=str(Path(__file__).parent)))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no"]
    for count in (1, 2):
        options = ["--dynamo_backend", "no", "--num_processes", str(count), *(["--multi_gpu"] if count > 1 else [])]
        command = [*launch, *options, script, tmp_path / f"{count}.safetensors"]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / f"{count}.safetensors") for count in (1, 2))
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
