"""Tests of papers/hypernetworks: what acts where, what folds, what is kept, and that the pipeline survives it all."""

import dataclasses
import inspect
import math

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from paper_checks import refuses
from tiny_pipelines import WIDTH, pictures, sd
from torch import nn

from papers.hypernetworks import evaluation as ev
from papers.hypernetworks import exercises, storage
from papers.hypernetworks.fold import affine_map, fit_affine, fold, fold_projection, folded, singular_values
from papers.hypernetworks.method import (
    ACTIVATIONS,
    CorrectionMLP,
    Hypernetwork,
    HypernetworkConfig,
    corrected_context,
    denoising_loss,
    draw_batches,
    hypernetwork,
    targets,
    train,
)
from studylib.denoisers.denoiser import Denoiser
from studylib.errors import StudyError
from studylib.evidence.card import load_card
from studylib.evidence.paper import load_presets
from studylib.measuring.subject import mean_of, photo_errors

SMALL = {"max_train_steps": 4, "learning_rate": 1e-2, "train_batch_size": 2}


def draw(pipe) -> np.ndarray:
    image = pipe("a sks cat", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np")
    return image.images[0]


def asked(pipe, levels: int = 2) -> ev.Probe:
    return ev.probe(pipe, Denoiser(pipe).encode(pictures()), ["a cat", "a sks cat in snow"], seed=0, levels=levels)


def shaken(pipe, config: HypernetworkConfig, scale: float = 30.0) -> Hypernetwork:
    """A hypernetwork as far from its start as a long training takes it, biases included."""
    nets = Hypernetwork.of(pipe.unet, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in nets.parameters():
            weight.add_(0.01 * scale * torch.randn(weight.shape, generator=generator) / math.sqrt(weight.shape[-1]))
    return nets


def test_training_leaves_the_pipeline_as_it_was(pipe):
    """Off is identity, on is different, also after an error inside the block; no weight and no processor is touched."""
    before, weights = draw(pipe), {name: weight.clone() for name, weight in pipe.unet.named_parameters()}
    processors = dict(pipe.unet.attn_processors)
    learned = train(pipe, pictures(), HypernetworkConfig(**SMALL), keep=[0, 2])
    assert np.array_equal(draw(pipe), before)
    with hypernetwork(pipe, learned.nets):
        assert not np.array_equal(draw(pipe), before)
        assert all(pipe.unet.attn_processors[name] is own for name, own in processors.items())
    with pytest.raises(RuntimeError), hypernetwork(pipe, learned.nets):
        raise RuntimeError
    assert np.array_equal(draw(pipe), before)
    assert all(torch.equal(weight, weights[name]) for name, weight in pipe.unet.named_parameters())
    assert not any(module._forward_pre_hooks for module in pipe.unet.modules())
    assert len(learned.history.rows) == 4
    assert learned.history.parameters == sum(weight.numel() for weight in learned.nets.parameters())
    assert not any(weight.requires_grad for weight in learned.nets.parameters()) and not learned.nets.training


def test_strength_zero_is_the_untouched_model(pipe):
    """c + 0 f(c) is c to the last bit, whatever f has become."""
    nets, question = shaken(pipe, HypernetworkConfig()), asked(pipe)
    with hypernetwork(pipe, nets, 0.0):
        assert torch.equal(ev.predict(pipe, question), outside := ev.predict(pipe, question))
    assert torch.equal(ev.predict(pipe, question), outside)


def test_the_correction_is_the_equation(pipe):
    """k = W_K (c + m f_k(c)), v = W_V (c + m f_v(c)), q = W_Q x: compared in the first layer with plain matrices."""
    nets, question = shaken(pipe, HypernetworkConfig()), asked(pipe)
    before, after = ev.first_attention(pipe, None, question), ev.first_attention(pipe, nets, question)
    assert torch.equal(before["query"], after["query"])
    assert not torch.equal(before["key"], after["key"]) and not torch.equal(before["value"], after["value"])
    target = next(target for target in targets(pipe.unet, nets.config) if target.projection == "value")
    module, context = pipe.unet.get_submodule(target.module), torch.randn(2, 5, target.width)
    first, last = (layer for layer in nets[target.pair]["value"].linear if isinstance(layer, nn.Linear))
    change = (context @ first.weight.T + first.bias) @ last.weight.T + last.bias
    with hypernetwork(pipe, nets, 0.7):
        assert torch.allclose(module(context), (context + 0.7 * change) @ module.weight.T, atol=1e-5)


def test_layers_are_chosen_by_the_width_of_their_context(pipe):
    """One pair a width: text is as wide as the deeper level's channels here, so both share the pair of that width."""
    found = targets(pipe.unet, HypernetworkConfig())
    assert {target.pair for target in found} == {"16", "32"} and WIDTH == 32
    assert {target.site.kind for target in found if target.pair == "32"} == {"self", "cross"}
    assert {target.site.kind for target in found if target.pair == "16"} == {"self"}
    assert len(found) == 2 * len(pipe.unet.attn_processors)
    assert {target.module.rsplit(".", 1)[1] for target in found} == {"to_k", "to_v"}
    assert all(t.site.kind == "cross" for t in targets(pipe.unet, HypernetworkConfig(placement="cross")))
    assert {t.width for t in targets(pipe.unet, HypernetworkConfig(widths="16"))} == {16}
    assert {t.width for t in targets(pipe.unet, HypernetworkConfig(projections="query"))} == {16, 32}
    with pytest.raises(LookupError, match=r"768.*\[16, 32\]"):
        targets(pipe.unet, HypernetworkConfig(widths="768"))
    own = Hypernetwork.of(pipe.unet, HypernetworkConfig(sharing="layer"))
    assert len(own) == len(pipe.unet.attn_processors)


def test_fused_projections_are_refused(pipe):
    """A fused projection makes query, key and value from one input: hooks on to_k would wait there for ever."""
    fused = sd()
    fused.fuse_qkv_projections()
    with pytest.raises(StudyError, match="unfuse"):
        targets(fused.unet, HypernetworkConfig())


def test_sizes_on_the_real_architecture():
    """SD 1.5's widths, layers and parameters, on the meta device: 4.72 + .82 + 3.28 + 13.11 = 21.94 million."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        nets = Hypernetwork.of(unet, HypernetworkConfig())
    counts = {pair: sum(weight.numel() for weight in mlps.parameters()) for pair, mlps in nets.items()}
    assert counts == {"320": 821_120, "640": 3_280_640, "768": 4_723_200, "1280": 13_114_880}
    found = targets(unet, HypernetworkConfig())
    assert len(found) == 64 and all(target.site.kind == "cross" for target in found if target.width == 768)
    assert sum(target.width == 768 for target in found) == 32


@pytest.mark.parametrize("width", [320, 768])
def test_a_new_one_perturbs_by_the_rule(width):
    """No weight starts at zero: ||f(c)|| / ||c|| is 1e-4 sqrt(2) d before any training, with a zero last layer 0."""
    for seed in range(3):
        assert ev.sizes_at_start([width], seed)[width] == pytest.approx(ev.expected_size(width), rel=0.1)
    assert ev.sizes_at_start([width], weight_init="zero_last")[width] == 0
    assert ev.sizes_at_start([width], weight_init="xavier_normal")[width] > 0.5
    assert ev.sizes_at_start([width], weight_init="kaiming_uniform")[width] > 0.5
    assert 0.003 < ev.sizes_at_start([width], layer_norm=True)[width] < 0.011  # its gain is drawn near 0, not 1


def test_layers_of_the_mlp_are_those_of_the_web_ui():
    """Order linear, activation, norm, dropout; none of the two last things at the end; swish is Hardswish there."""
    names = [type(layer).__name__ for layer in CorrectionMLP(4, HypernetworkConfig()).linear]
    assert names == ["Linear", "Linear"]
    config = HypernetworkConfig(layer_structure="1, 2, 4, 1", activation_func="swish", layer_norm=True, dropout=0.3)
    mlp = CorrectionMLP(4, config).linear
    hidden = ["Linear", "Hardswish", "LayerNorm", "Dropout"]
    assert [type(layer).__name__ for layer in mlp] == [*hidden, *hidden, "Linear", "LayerNorm"]
    assert [layer.out_features for layer in mlp if isinstance(layer, nn.Linear)] == [8, 16, 4]
    last = CorrectionMLP(4, dataclasses.replace(config, activate_output=True, activation_func="relu")).linear
    assert [type(layer).__name__ for layer in last[-3:]] == ["Linear", "ReLU", "LayerNorm"]
    assert sum(weight.numel() for weight in CorrectionMLP(10, HypernetworkConfig()).parameters()) == 4 * 100 + 30


def test_relu_at_the_end_only_adds(pipe):
    """Why the web UI took it away: a correction of the context can then have one sign only."""
    config = HypernetworkConfig(activation_func="relu", activate_output=True, weight_init="xavier_normal")
    mlp = CorrectionMLP(8, config)
    assert bool((mlp(torch.randn(50, 8)) >= 0).all()) and bool((mlp(torch.randn(50, 8)) > 0).any())


def test_float16_contexts_are_corrected_in_float32():
    """In half precision a strong correction would overflow inside f; c comes back as it was given."""
    mlp = CorrectionMLP(8, HypernetworkConfig(weight_init="xavier_normal"))
    context = torch.randn(3, 8).half()
    assert corrected_context(context, mlp, 1.0).dtype == torch.float16
    assert torch.equal(corrected_context(context, mlp, 0.0), context)
    wide = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).requires_grad_(False)
    nn.init.constant_(wide[0].weight, 1e4), nn.init.constant_(wide[1].weight, 1e-5)  # 8e4 in between: no half
    assert corrected_context(torch.ones(1, 8).half(), wide, 1.0).isfinite().all()


def test_stacked_ones_act_one_after_the_other(pipe):
    """The inner block corrects what the outer one gives, so the order counts."""
    one, two = (shaken(pipe, HypernetworkConfig(seed=seed)) for seed in (0, 1))
    target = targets(pipe.unet, one.config)[0]
    module, context = pipe.unet.get_submodule(target.module), torch.randn(1, 4, target.width)
    with hypernetwork(pipe, one, 0.5), hypernetwork(pipe, two, 0.8):
        found = module(context)
    inner = corrected_context(context, one[target.pair][target.projection], 0.5)
    assert torch.equal(found, module(corrected_context(inner, two[target.pair][target.projection], 0.8)))
    with hypernetwork(pipe, two, 0.8), hypernetwork(pipe, one, 0.5):
        assert not torch.allclose(found, module(context), atol=1e-3)


@pytest.mark.parametrize("structure", ["1, 2, 1", "1, 2, 2, 1", "1, 1"])
def test_without_activation_it_folds_into_the_weights(pipe, structure):
    """The whole denoiser gives the same, and is itself again afterwards; dropout only counts in training."""
    nets, question = shaken(pipe, HypernetworkConfig(layer_structure=structure, dropout=0.3), 20.0), asked(pipe)
    before = ev.predict(pipe, question)
    with hypernetwork(pipe, nets, 0.8):
        wanted = ev.predict(pipe, question)
    with folded(pipe, fold(pipe, nets, 0.8)):
        found = ev.predict(pipe, question)
    assert (wanted - before).abs().max() > 1e-2 and torch.allclose(found, wanted, atol=1e-4)
    assert torch.equal(ev.predict(pipe, question), before)
    assert all(module.to_k.bias is None for module in pipe.unet.modules() if hasattr(module, "to_k"))


def test_parts_fold_as_they_act(pipe):
    """The notebook's toggles leave out values, or self-attention, folded or not."""
    nets, question = shaken(pipe, HypernetworkConfig()), asked(pipe)
    for parts in ({"projections": ("key",)}, {"kinds": ("cross",)}, {"projections": ("value",), "kinds": ("self",)}):
        with hypernetwork(pipe, nets, **parts) as chosen:
            wanted = ev.predict(pipe, question)
        with folded(pipe, fold(pipe, nets, **parts)):
            assert torch.allclose(ev.predict(pipe, question), wanted, atol=1e-4)
        assert 0 < len(chosen) < len(targets(pipe.unet, nets.config))


def test_with_activation_it_does_not_fold(pipe):
    """An exact fold is refused; the best one by least squares, exact for an affine f, leaves a residual for ReLU."""
    question = asked(pipe)
    before = ev.predict(pipe, question)
    lost = {}
    for activation in ("linear", "relu"):
        nets = shaken(pipe, HypernetworkConfig(activation_func=activation))
        with ev.record_contexts(pipe, nets) as contexts:
            wanted = ev.predict(pipe, question)
        nearest = fit_affine(nets, {name: seen for name, (seen, _) in contexts.items()})
        with folded(pipe, fold(pipe, nets, affine=nearest)):
            lost[activation] = ev.lost_effect(wanted, ev.predict(pipe, question), before)
    assert lost["linear"] < 1e-3 and lost["relu"] > 0.02
    with pytest.raises(ValueError, match="ReLU"):
        affine_map(nets["32"]["key"])
    assert len(singular_values(shaken(pipe, HypernetworkConfig()), "32", "key")) == 32


def test_only_the_mlps_learn_and_the_loss_falls(pipe):
    """The plain loss of the model, at strength 1, with gradients for the MLPs alone."""
    latents, config = Denoiser(pipe).encode(pictures()), HypernetworkConfig(**SMALL | {"max_train_steps": 40})
    batch = draw_batches(pipe, latents, config)(torch.Generator().manual_seed(0))
    embeds = pipe.encode_prompt("a sks cat", "cpu", 1, False)[0].expand(2, -1, -1)
    noised = pipe.scheduler.add_noise(batch["latents"], batch["noise"], batch["timesteps"])
    prediction = pipe.unet(noised, batch["timesteps"], embeds).sample
    assert torch.allclose(denoising_loss(pipe, config)(batch), nn.functional.mse_loss(prediction, batch["noise"]))
    learned = train(pipe, pictures(), config, keep=[0, 20])
    end, start = learned.nets.state_dict(), learned.snapshots[0]
    assert end.keys() == start.keys() and not any(torch.equal(weight, start[name]) for name, weight in end.items())
    errors = [
        mean_of(photo_errors(pipe, hypernetwork(pipe, nets), latents, config.subject))
        for nets in (learned.at(0), learned.at(20), learned.nets)
    ]
    assert errors[0] > errors[1] > errors[2]
    with pytest.raises(KeyError, match="0, 20"):
        learned.at(7)


def test_trainings_repeat_and_dropout_is_for_training_only(pipe):
    """The same seed gives the same weights, another or a dropout other ones; a trained one draws without dropout."""
    configs = [HypernetworkConfig(seed=seed, **SMALL) for seed in (0, 0, 1)]
    one, same, other = (train(pipe, pictures(), config).nets.state_dict() for config in configs)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    dropped = train(pipe, pictures(), HypernetworkConfig(dropout=0.5, **SMALL)).nets
    state = {name.replace("linear.2", "linear.1"): weight for name, weight in dropped.state_dict().items()}
    assert not all(torch.equal(one[name], state[name]) for name in one)
    with hypernetwork(pipe, dropped):
        assert np.array_equal(draw(pipe), draw(pipe))


def test_files_keep_everything(pipe, tmp_path):
    """A saved hypernetwork draws the same picture, knows how it was made, and another file is refused by name."""
    nets = shaken(pipe, HypernetworkConfig(activation_func="relu", layer_norm=True, dropout=0.2))
    again = storage.load(storage.save(nets, tmp_path / "nets.safetensors"))
    assert again.config == nets.config
    with hypernetwork(pipe, nets):
        wanted = draw(pipe)
    with hypernetwork(pipe, again):
        assert np.array_equal(draw(pipe), wanted)
    by_layer = Hypernetwork.of(pipe.unet, HypernetworkConfig(sharing="layer"))
    storage.save(by_layer, tmp_path / "layer.safetensors")
    assert set(storage.load(tmp_path / "layer.safetensors").state_dict()) == set(by_layer.state_dict())
    storage.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors is no hypernetwork"):
        storage.load(tmp_path / "other.safetensors")


def test_web_ui_files_carry_over(pipe):
    """Integer widths, a pair of state dicts, names as there; old files mean an activated output and linear1 and 2."""
    nets = shaken(pipe, HypernetworkConfig(activation_func="swish", dropout=0.3))
    layout = storage.web_ui_layout(nets, name="cat", step=4)
    assert set(layout[32][0]) == {"linear.0.weight", "linear.0.bias", "linear.3.weight", "linear.3.bias"}
    assert layout["layer_structure"] == [1, 2, 1] and layout["dropout_structure"] == [0.0, 0.3, 0.0]
    assert layout["weight_initialization"] == "Normal" and layout["is_layer_norm"] is False and layout["step"] == 4
    again = storage.from_web_ui(layout)
    context = torch.randn(2, 32)
    assert all(torch.equal(nets["32"][p](context), again["32"][p](context)) for p in ("key", "value"))
    plain = Hypernetwork({("8", "key"): 8, ("8", "value"): 8}, HypernetworkConfig())
    old = {8: tuple(
        {name.replace("linear.0", "linear1").replace("linear.1", "linear2"): w for name, w in mlp.state_dict().items()}
        for mlp in (plain["8"]["key"], plain["8"]["value"])
    )}  # fmt: skip
    read, seen = storage.from_web_ui(old), context[:, :8]
    assert read.config.activate_output and torch.equal(read["8"]["key"](seen), plain["8"]["key"](seen))
    with pytest.raises(ValueError, match="by width"):
        storage.web_ui_layout(Hypernetwork.of(pipe.unet, HypernetworkConfig(sharing="layer")))


WEB_UI = {  # what such files say of their layers
    "use_dropout alone": {"layer_structure": [1, 2, 2, 1], "use_dropout": True, "activation_func": "relu"},
    "use_dropout on the last hidden layer": {
        "layer_structure": [1, 2, 1], "use_dropout": True, "last_layer_dropout": True, "activation_func": "relu"},
    "zeros inside dropout_structure": {
        "layer_structure": [1, 2, 2, 1], "dropout_structure": [0, 0.3, 0, 0], "is_layer_norm": True},
    "a fraction": {"layer_structure": [1, 4 / 3, 1], "activation_func": "mish", "activate_output": False},
    "nothing but the weights": {},
} | {name: {"layer_structure": [1, 2, 1], "activation_func": name, "activate_output": True} for name in ACTIVATIONS}


def web_ui_mlp(width, layout):
    """The web UI's HypernetworkModule, after its source: where each layer stands decides the names of the weights."""
    structure = layout.get("layer_structure", [1, 2, 1])
    dropout = layout.get("dropout_structure")
    if dropout is None:
        rate = 0.3 if layout.get("use_dropout") else 0
        dropout = [0, *[rate] * (len(structure) - 3), rate if layout.get("last_layer_dropout") else 0, 0]
    activations = {
        name.lower(): kind for name, kind in inspect.getmembers(torch.nn.modules.activation, inspect.isclass)
        if kind.__module__ == "torch.nn.modules.activation"
    } | {"linear": None, "swish": torch.nn.Hardswish}  # fmt: skip
    activation, layers = activations[layout.get("activation_func", "linear")], []
    for i in range(len(structure) - 1):
        layers.append(torch.nn.Linear(int(width * structure[i]), int(width * structure[i + 1])))
        if activation is not None and (i < len(structure) - 2 or layout.get("activate_output", True)):
            layers.append(activation())
        if layout.get("is_layer_norm"):
            layers.append(torch.nn.LayerNorm(int(width * structure[i + 1])))
        if dropout[i + 1] > 0:
            layers.append(torch.nn.Dropout(dropout[i + 1]))
    return torch.nn.Sequential(*layers).eval()


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("kind", WEB_UI)
def test_files_of_the_web_ui_compute_what_they_describe(pipe, kind):
    """Where dropout and activations stand counts in the names of the weights; one width of two is there."""
    torch.manual_seed(0)
    mlps = [web_ui_mlp(32, WEB_UI[kind]) for _ in range(2)]
    pair = tuple({f"linear.{name}": w for name, w in mlp.state_dict().items()} for mlp in mlps)
    nets = storage.from_web_ui(WEB_UI[kind] | {32: pair, "name": "theirs", "step": 9})
    context = torch.randn(2, 5, 32)
    for mlp, projection in zip(mlps, ("key", "value"), strict=True):
        assert torch.equal(nets["32"][projection](context), mlp(context))
        assert [layer.p for layer in nets["32"][projection].linear if isinstance(layer, torch.nn.Dropout)] == [
            layer.p for layer in mlp if isinstance(layer, torch.nn.Dropout)
        ]
    with hypernetwork(pipe, nets) as found:  # the pipeline has layers of width 16 as well
        assert {target.width for target in found} == {32}
    with pytest.raises(ValueError, match="no hypernetwork of the web UI: it has no widths, only name"):
        storage.from_web_ui({"name": "theirs"})


def test_a_file_goes_into_a_new_folder(pipe, tmp_path):
    """Ten minutes of training must not end at a folder that nobody has made."""
    path = tmp_path / "new" / "nets.safetensors"
    assert storage.save(Hypernetwork.of(pipe.unet, HypernetworkConfig()), path) == path and path.is_file()


def test_strength_and_sizes_are_seen_where_they_act(pipe):
    """Measures the notebook quotes: no effect at strength 0, more with more; sizes in proportion to the strength."""
    nets, question = shaken(pipe, HypernetworkConfig(), 5.0), asked(pipe)
    curve = ev.strength_curve(pipe, nets, question, [0.0, 0.5, 1.0], levels=2)
    assert curve.shape == (3, 2) and bool((curve[0] == 0).all()) and bool((curve[2] > curve[1]).all())
    full, half = (ev.relative_sizes(pipe, nets, question, m) for m in (1.0, 0.5))
    first = targets(pipe.unet, nets.config)[0].module
    assert half[first] == pytest.approx(full[first] / 2, rel=1e-3) and len(full) == len(targets(pipe.unet, nets.config))
    assert set(ev.by_group(pipe, full, nets.config)) == {
        f"{kind} {width} {projection}" for kind, width in (("self", 16), ("self", 32), ("cross", 32))
        for projection in ("key", "value")
    }  # fmt: skip


@pytest.mark.parametrize("wrong", [
    {"dropout": 1.0}, {"learning_rate": float("nan")}, {"max_train_steps": True}, {"activation_func": "glu"},
    {"weight_init": "Normal"}, {"placement": "joint"}, {"sharing": "none"}, {"layer_structure": "2, 1"},
    {"layer_structure": "1, two, 1"}, {"layer_structure": "1"}, {"projections": "keys"}, {"projections": ""},
    {"dropout_structure": "0, 0.3"}, {"dropout_structure": "0, 0.3, 0.3"}, {"widths": "768; 320"}, {"widths": "0"},
])  # fmt: skip
def test_config_refuses_what_means_nothing(wrong):
    """Errors name the knob before a training of half a minute, not after."""
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        HypernetworkConfig(**wrong)


def test_card_and_presets_fit_the_config():
    """Knobs on the card have the config's ranges and choices, and every preset builds a config."""
    card, fields = load_card("hypernetworks"), {field.name for field in dataclasses.fields(HypernetworkConfig)}
    assert fields - {"identifier", "class_noun", "seed", "dropout_structure"} <= set(card.knobs)  # the last: files only
    for name, limits in HypernetworkConfig.ranges().items():
        assert (card.knobs[name].min, card.knobs[name].max) == limits
    for name, choices in HypernetworkConfig.choices().items():
        assert card.knobs[name].choices == list(choices)
    presets = load_presets("hypernetworks")
    assert {"web_ui", "key_and_query", "sd15"} <= set(presets)
    for values in presets.values():
        HypernetworkConfig(**{name: value for name, value in values.items() if name in fields})
    assert {"exact", "directional", "beyond"} == {claim.kind for claim in card.claims}


def test_exercise_on_the_fold(capsys):
    """Accepts the method's own fold and names the usual slips."""

    def right(key, first, offset_1, second, offset_2, m):
        found = fold_projection(key, (second @ first).double(), (second @ offset_1 + offset_2).double(), m)
        return found.weight, found.bias

    check = exercises.check_fold
    check(right)
    assert "right" in capsys.readouterr().out
    refuses(check, lambda k, a, b, c, d, m: (m * k @ c @ a, right(k, a, b, c, d, m)[1]), "W_K itself is missing")
    refuses(check, lambda k, a, b, c, d, m: right(k, a, b, c, d, 1.0), "strength")
    refuses(check, lambda k, a, b, c, d, m: (right(k, a, b, c, d, m)[0], m * k @ (c @ b + d) / m), "strength")
    refuses(check, lambda k, a, b, c, d, m: (right(k, a, b, c, d, m)[0], 0 * k[:, 0]), "the bias is m W_K")
    refuses(check, lambda k, a, b, c, d, m: None, "each a tensor")
    refuses(check, lambda k, a, b, c, d, m: (right(k, a, b, c, d, m)[0], m * (c @ b + d)), "the bias has shape")


def test_exercise_on_low_rank(capsys):
    """Accepts an SVD of the change, refuses one of W_2 W_1 alone, and directions without values."""

    def right(key, matrix, rank):
        left, values, down = torch.linalg.svd(key @ matrix, full_matrices=False)
        return left[:, :rank] * values[:rank], down[:rank]

    def too_early(key, matrix, rank):
        left, values, down = torch.linalg.svd(matrix)
        return key @ left[:, :rank] * values[:rank], down[:rank]

    check = exercises.check_low_rank
    check(right)
    assert "right" in capsys.readouterr().out
    refuses(check, too_early, "best cut of a product")
    refuses(check, lambda k, a, r: [torch.linalg.svd(k @ a)[0][:, :r], right(k, a, r)[1]], "directions")
    refuses(check, lambda k, a, r: (torch.zeros(5, r), torch.zeros(r, 8)), "misses")
    refuses(check, lambda k, a, r: (k @ a, torch.eye(8)), "shape")


def test_exercise_on_stacking(capsys):
    """Accepts the product in the right order, refuses the sum and the reverse."""
    eye = torch.eye(5)

    def right(parts, reverse=False):
        matrix = eye
        for change, m in reversed(parts) if reverse else parts:
            matrix = (eye + m * change) @ matrix
        return matrix

    check = exercises.check_stack
    check(right)
    assert "right" in capsys.readouterr().out
    refuses(check, lambda parts: eye + sum(m * change for change, m in parts), "add up")
    refuses(check, lambda parts: right(parts, reverse=True), "order")
    refuses(check, lambda parts: 2 * right(parts), "off with 1")
    refuses(check, lambda parts: None, "matrix")
