"""Tests of papers/lora: the layer is peft's, files are diffusers', training touches thin factors alone."""

from dataclasses import replace

import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from paper_checks import refuses
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from tiny_pipelines import pictures, sd
from torch import nn

from papers.lora import evaluation as ev
from papers.lora import exercises, inside, plots
from papers.lora.factors import (
    Lora,
    amplification,
    cross_terms,
    extracted,
    joined,
    save_lora,
    singular_values,
    subspace_similarity,
    summed,
    truncated,
)
from papers.lora.method import (
    INITS,
    LoRAConfig,
    LoRALinear,
    adapted,
    adapted_layers,
    count_parameters,
    initial_factors,
    merged,
    new_layers,
    parts_of,
)
from papers.lora.subject import draw_batches, subject_loss, train
from studylib.denoisers.denoiser import Denoiser
from studylib.evidence.card import load_card
from studylib.evidence.paper import load_presets
from studylib.learning.weights import replaced
from studylib.models.architectures import sd15_unet

SMALL = LoRAConfig(rank=3, lora_alpha=6.0, max_train_steps=3, learning_rate=1e-2, train_batch_size=2)
FEW = {"num_inference_steps": 2, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def trained(pipe):
    return train(pipe, pictures(0), pictures(1), SMALL, keep=[1])


def draw(pipe, **options) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe("a sks cat", generator=generator, output_type="latent", **FEW, **options).images


def random_lora(pipe, seed: int, config: LoRAConfig = SMALL, size: float = 0.3) -> Lora:
    """Both factors random, as after a training."""
    torch.manual_seed(seed)
    return Lora({
        name: (size * torch.randn(config.rank, layer.in_features), size * torch.randn(layer.out_features, config.rank))
        for name, layer in adapted_layers(parts_of(pipe), config).items()
    }, config.scale)  # fmt: skip


def test_training_leaves_the_pipeline_as_it_was(pipe, trained):
    """Off is identity, on is different: outside the blocks the very same latents, after errors as well."""
    before = draw(sd())
    assert torch.equal(draw(pipe), before)
    for block in (adapted, merged):
        with block(pipe, trained.lora):
            assert not torch.equal(draw(pipe), before)
        with pytest.raises(RuntimeError), block(pipe, trained.snapshots[1], 0.5):
            raise RuntimeError
        with block(pipe, trained.lora, 0.0):
            assert torch.equal(draw(pipe), before)
    assert torch.equal(draw(pipe), before)
    assert not any(isinstance(module, LoRALinear) for module in pipe.unet.modules())
    assert len(trained.history.rows) == 3 and trained.history.parameters == trained.lora.parameters


def test_nothing_but_the_factors_is_trained(pipe, trained):
    """Every weight of denoiser and text encoder is frozen: after a training they are the untouched pipeline's."""
    fresh = sd()
    for name in ("unet", "text_encoder"):
        pairs = zip(getattr(fresh, name).parameters(), getattr(pipe, name).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    layers = new_layers(pipe, SMALL)
    moved = [not torch.equal(layers[name].B, b) for name, (_, b) in trained.lora.factors.items()]
    assert moved and all(moved)


@pytest.mark.parametrize("rank, alpha, rslora", [(1, 1.0, False), (4, 8.0, False), (16, 8.0, True)])
def test_layer_equals_pefts(rank, alpha, rslora):
    """With the same factors our outputs are peft's, alpha and the root of the rank included."""
    torch.manual_seed(0)
    config = LoRAConfig(rank=rank, lora_alpha=alpha, use_rslora=rslora)
    model = nn.Sequential(nn.Linear(20, 30))
    ours = LoRALinear(model[0], rank, config.scale)
    ours.A.data, ours.B.data = torch.randn(rank, 20), torch.randn(30, rank)
    x = torch.randn(5, 20)
    expected = ours(x)
    wrapped = get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, use_rslora=rslora, target_modules=["0"]))
    theirs = wrapped.base_model.model[0]
    theirs.lora_A["default"].weight.data, theirs.lora_B["default"].weight.data = ours.A.data, ours.B.data
    assert (theirs(x) - expected).abs().max() <= 1e-6
    assert ev.gap_to_peft() <= 1e-6


def test_adapted_denoiser_equals_pefts(pipe):
    """The same modules are adapted as by the usual script's target_modules, and the denoiser predicts the same."""
    other = sd()
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    other.unet.add_adapter(LoraConfig(r=3, lora_alpha=6, target_modules=targets, init_lora_weights="gaussian"))
    lora = random_lora(pipe, 0).only(lambda name: name.startswith("unet."))
    state = {}
    for name, (a, b) in lora.factors.items():
        layer = name.removeprefix("unet.")
        state |= {f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b}
    assert set(get_peft_model_state_dict(other.unet)) == set(state)
    set_peft_model_state_dict(other.unet, state)
    with adapted(pipe, lora):
        assert (draw(pipe) - draw(other)).abs().max() <= 1e-5


@pytest.mark.parametrize("scale", [1.0, 2.0, 0.25])
@pytest.mark.parametrize("text", [True, False])
def test_diffusers_loads_the_file(pipe, tmp_path, scale, text):
    """A saved LoRA draws the same through `load_lora_weights`, with alpha other than the rank, and at half strength."""
    lora = replace(random_lora(pipe, 1, replace(SMALL, train_text_encoder=text)), scale=scale)
    save_lora(lora, tmp_path)
    with adapted(pipe, lora):
        ours = draw(pipe)
    with adapted(pipe, lora, 0.5):
        weaker = draw(pipe)
    other = sd()
    other.load_lora_weights(tmp_path, adapter_name="subject")
    assert (draw(other) - ours).abs().max() <= 1e-5
    other.set_adapters("subject", adapter_weights=0.5)
    assert (draw(other) - weaker).abs().max() <= 1e-5 < (weaker - ours).abs().max()


def test_layers_of_different_ranks_keep_theirs_in_the_file(pipe, tmp_path):
    """A joined or truncated LoRA has them: the first layer's rank for all would scale the others wrongly."""
    lora = replace(random_lora(pipe, 1), scale=0.5)
    cut = {name: (a[:1], b[:, :1]) if i % 2 else (a, b) for i, (name, (a, b)) in enumerate(lora.factors.items())}
    lora = replace(lora, factors=cut)
    assert len({len(a) for a, _ in cut.values()}) == 2
    save_lora(lora, tmp_path)
    with adapted(pipe, lora):
        ours = draw(pipe)
    other = sd()
    other.load_lora_weights(tmp_path, adapter_name="subject")
    assert (draw(other) - ours).abs().max() <= 1e-5


def extracted_lora(pipe):
    change = random_lora(pipe, 1)
    return Lora({name: extracted(change.delta(name), 2) for name in change.factors})


MADE = {  # every LoRA that the notebook can make
    "summed, of other ranks and layers": lambda pipe: summed([
        (random_lora(pipe, 1), 1.0), (random_lora(pipe, 2, replace(SMALL, rank=2, projections="q")), 1.25)]),
    "summed twice": lambda pipe: summed([
        (summed([(random_lora(pipe, 1), 0.5), (random_lora(pipe, 2), -1.0)]), 1.0), (random_lora(pipe, 3), 1.0)]),
    "truncated": lambda pipe: truncated(random_lora(pipe, 1), 2),
    "truncated to more than a layer has": lambda pipe: truncated(random_lora(pipe, 1, replace(SMALL, rank=40)), 30),
    "joined": lambda pipe: joined([(random_lora(pipe, 1), 1.0), (random_lora(pipe, 2), 1.25)]),
    "extracted": extracted_lora,
    "rank above the width": lambda pipe: random_lora(pipe, 1, replace(SMALL, rank=64), size=0.05),
    "rank-stabilised": lambda pipe: random_lora(pipe, 1, replace(SMALL, use_rslora=True)),
    "one projection": lambda pipe: random_lora(pipe, 1, replace(SMALL, projections="out")),
    "feed-forward alone": lambda pipe: random_lora(
        pipe, 1, replace(SMALL, projections="", adapt_feed_forward=True)),
    "text encoder alone": lambda pipe: random_lora(pipe, 1).only(lambda name: name.startswith("text_encoder.")),
    "cross-attention alone": lambda pipe: random_lora(pipe, 1).only(lambda name: ".attn2." in name),
    "one layer of another rank": lambda pipe: summed([
        (random_lora(pipe, 1), 1.0), (random_lora(pipe, 2).only(lambda name: name.endswith("mid_block.attentions.0."
            "transformer_blocks.0.attn1.to_q")), 1.0)]),
}  # fmt: skip


@pytest.mark.parametrize("kind", MADE)
def test_whatever_was_made_opens_in_diffusers(pipe, tmp_path, kind):
    """A LoRA of several ranks did not load: the file says rank and alpha of each layer that differs."""
    lora = MADE[kind](pipe)
    save_lora(lora, tmp_path)
    with adapted(pipe, lora):
        ours = ev.predicted_noise(pipe, Denoiser(pipe).prompt(["a sks cat"]))
    other = sd()
    untouched = ev.predicted_noise(other, Denoiser(other).prompt(["a sks cat"]))
    other.load_lora_weights(tmp_path, adapter_name="subject")
    theirs = ev.predicted_noise(other, Denoiser(other).prompt(["a sks cat"]))
    assert torch.allclose(ours, theirs, atol=1e-5) and not torch.allclose(ours, untouched, atol=1e-4)


def test_a_file_without_alpha_is_misread_unless_the_scale_is_one(pipe):
    """The recurring bug with alpha: readers take it for the rank. With the header they do not."""
    lora = replace(random_lora(pipe, 1), scale=0.5)
    assert ev.file_gap(pipe, lora, "a sks cat", **FEW) <= 1e-5
    assert ev.file_gap(pipe, lora, "a sks cat", alpha_in_file=False, **FEW) > 1e-3
    assert ev.file_gap(pipe, replace(lora, scale=1.0), "a sks cat", alpha_in_file=False, **FEW) <= 1e-5
    assert torch.equal(draw(pipe), draw(sd()))  # and the pipeline is what it was


def test_file_has_the_names_that_diffusers_writes(pipe, tmp_path):
    """Other tools go by these names: the usual script's own file must have the same keys and shapes."""
    lora = random_lora(pipe, 0).only(lambda name: name.startswith("unet."))
    ours = load_file(save_lora(lora, tmp_path / "ours"))
    other = sd()
    other.unet.add_adapter(LoraConfig(r=3, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(other.unet))
    other.save_lora_weights(tmp_path / "theirs", unet_lora_layers=state)
    theirs = load_file(tmp_path / "theirs" / "pytorch_lora_weights.safetensors")
    assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in theirs.items()}


@pytest.mark.parametrize("init", INITS)
def test_one_factor_starts_at_zero(pipe, init):
    """The adapted model starts as the model, and only the zero factor can move; two zeros never do."""
    config = replace(SMALL, init_lora_weights=init)
    before = draw(pipe)
    with replaced(pipe, new_layers(pipe, config)):
        assert torch.equal(draw(pipe), before)
    photos = Denoiser(pipe).encode(pictures(0))
    assert ev.who_moves(pipe, photos, config) == ("A" if init == "mirrored" else "B")
    assert ev.who_moves(pipe, photos, config, zero_both=True) == "none"


def test_random_factors_have_the_sizes_of_the_usual_code():
    """loralib and peft: U(+-1/sqrt(k)); the diffusers scripts: N(0, 1/r^2); loralib's embeddings: N(0, 1) on B."""
    generator = torch.Generator().manual_seed(0)
    for rank in (1, 4, 16):
        kaiming, zero = initial_factors(50, 400, rank, "kaiming", generator)
        assert kaiming.abs().max() <= 1 / 20 and kaiming.std().item() == pytest.approx(1 / 20 / 3**0.5, rel=0.1)
        assert not zero.any() and zero.shape == (50, rank)
        gaussian = initial_factors(50, 400, rank, "gaussian", generator)[0]
        assert gaussian.std().item() == pytest.approx(1 / rank, rel=0.15)
        a, b = initial_factors(400, 50, rank, "mirrored", generator)
        assert not a.any() and b.std().item() == pytest.approx(1, rel=0.15)
    peft = nn.Linear(400, 8, bias=False)  # what peft's reset does to lora_A
    nn.init.kaiming_uniform_(peft.weight, a=5**0.5)
    assert peft.weight.abs().max().item() == pytest.approx(1 / 20, rel=0.02)
    with pytest.raises(ValueError, match="kaiming"):
        initial_factors(4, 4, 2, "xavier")


def test_merging_is_the_layer_and_unmerging_the_base():
    """Equal outputs merged and beside; twice is once; the weight comes back to rounding."""
    torch.manual_seed(0)
    base = nn.Linear(20, 30)
    before, x = base.weight.clone(), torch.randn(4, 20)
    layer = LoRALinear(base, 4, 0.5)
    layer.B.data.normal_()
    with torch.no_grad():
        beside = layer(x)
        layer.merge(), layer.merge()
        assert (layer(x) - beside).abs().max() <= 1e-5 and (base(x) - beside).abs().max() <= 1e-5
        layer.unmerge(), layer.unmerge()
        assert (base.weight - before).abs().max() <= 1e-6 and (layer(x) - beside).abs().max() <= 1e-5


def test_merged_and_nested_blocks_agree_with_their_sum(pipe):
    """Two adapters beside each other, both merged, and their sum as one LoRA draw the same."""
    one, two = random_lora(pipe, 1), random_lora(pipe, 2)
    with adapted(pipe, one), adapted(pipe, two, 0.5):
        beside = draw(pipe)
    with merged(pipe, one), merged(pipe, two, 0.5):
        inside_weights = draw(pipe)
    with adapted(pipe, summed([(one, 1.0), (two, 0.5)])):
        as_one = draw(pipe)
    assert max((inside_weights - beside).abs().max(), (as_one - beside).abs().max()) <= 1e-3
    with adapted(pipe, joined([(one, 1.0), (two, 0.5)])):
        assert (draw(pipe) - beside).abs().max() > 1e-2


def test_joining_adds_exactly_the_cross_terms(pipe):
    """(B1 + w B2)(A1 + w A2) is both changes with squared weights and the cross terms, scales included."""
    one, two = replace(random_lora(pipe, 1), scale=0.7), replace(random_lora(pipe, 2), scale=3.0)
    mixed = joined([(one, 1.0), (two, 0.5)])
    for name in one.factors:
        sum_ = one.delta(name) + 0.25 * two.delta(name) + 0.5 * cross_terms(one, two, name)
        assert torch.allclose(mixed.delta(name), sum_, atol=1e-4)
    lengths = inside.joining_lengths(one, two, 0.5)
    assert lengths["rest"] < 1e-5 * lengths["joined"] and lengths["cross terms"] > 0.1 * lengths["joined"]
    with pytest.raises(ValueError, match="one rank"):
        joined([(one, 1.0), (truncated(two, 1), 1.0)])


def test_half_precision_weights_keep_float32_factors():
    """On a GPU the frozen weights are fp16: the thin factors and their product must not be."""
    layer = LoRALinear(nn.Linear(8, 8).half(), 2)
    layer.B.data.fill_(1e-4)
    out = layer(torch.randn(3, 8).half())
    assert layer.A.dtype == layer.B.dtype == torch.float32 and out.dtype == torch.float16


@pytest.mark.parametrize("change, count", [
    ({}, 7 * 2 * 4 + 2 * 4), ({"projections": "q v"}, 7 * 2 * 2 + 2 * 2), ({"adapt_self_attention": False}, 7 * 4 + 8),
    ({"train_text_encoder": False}, 56), ({"adapt_feed_forward": True}, 64 + 14), ({"projections": "out"}, 16),
    ({"adapt_self_attention": False, "adapt_cross_attention": False}, 8),
])  # fmt: skip
def test_what_is_adapted(pipe, change, count):
    """Seven transformer blocks with two attentions, two layers of the text encoder: each switch picks its layers."""
    layers = adapted_layers(parts_of(pipe), replace(SMALL, **change))
    assert len(layers) == count and all(isinstance(layer, nn.Linear) for layer in layers.values())


def test_sizes_on_the_real_denoiser():
    """SD 1.5's own numbers; a wrong architecture or a missed module changes them."""
    real = sd15_unet()
    assert [ev.attention_parameters(real, r) for r in (1, 4, 8, 64)] == [199_296, 797_184, 1_594_368, 12_754_944]
    layers = adapted_layers({"unet": real}, LoRAConfig(train_text_encoder=False))
    assert len(layers) == 128 and count_parameters(layers, 4) == 797_184


def test_truncation_is_the_best_of_its_rank(pipe):
    """From the thin factors alone, equal to cutting the full change's SVD; all directions give the change back."""
    lora = replace(random_lora(pipe, 3, replace(SMALL, rank=5)), scale=0.6)
    name = next(iter(lora.factors))
    change = lora.delta(name)
    u, s, vh = torch.linalg.svd(change, full_matrices=False)
    assert torch.allclose(singular_values(lora, name)[1].float(), s[:5], atol=1e-4)
    assert torch.allclose(truncated(lora, 2).delta(name), u[:, :2] * s[:2] @ vh[:2], atol=1e-4)
    assert torch.allclose(truncated(lora, 5).delta(name), change, atol=1e-4)
    a, b = extracted(change, 2)
    assert torch.allclose(b @ a, u[:, :2] * s[:2] @ vh[:2], atol=1e-4)
    assert inside.rank_beyond(lora, 5) < 1e-6 < inside.rank_beyond(lora, 4)


def test_rank_larger_than_the_layer(pipe):
    """r = 64 on a layer of 16 features still has its SVD, and says so by its number of values."""
    lora = random_lora(pipe, 3, replace(SMALL, rank=64))
    name = next(iter(lora.factors))
    values = singular_values(lora, name)[1]
    assert torch.allclose(values.float(), torch.linalg.svdvals(lora.delta(name)), atol=1e-3)
    maps, above = inside.similarity_means(random_lora(pipe, 4), lora)
    assert maps["trained"].shape == maps["random directions"].shape and above
    plots.similarity_maps(maps)


def test_similarity_is_one_inside_and_chance_for_random_spaces():
    """phi between a space and itself, a larger one that holds it, an orthogonal one, and random ones."""
    basis = torch.linalg.qr(torch.randn(40, 40, generator=torch.Generator().manual_seed(0)).double())[0].T
    phi = subspace_similarity(basis[:4], basis[:9])
    assert phi.shape == (4, 9) and torch.allclose(phi, torch.ones(()).double())
    assert subspace_similarity(basis[:4], basis[4:9]).abs().max() < 1e-12
    found = []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        one, two = (torch.linalg.qr(torch.randn(40, r, generator=generator).double())[0].T for r in (3, 7))
        found.append(subspace_similarity(one, two))
    assert torch.allclose(torch.stack(found).mean(0).float(), inside.chance_similarity(40, (3, 7)), atol=0.02)


def test_loss_is_dreambooths_and_captions_reach_their_rows(pipe):
    """Two means, the second times lambda; each photo has its own caption, frozen or trained text encoder alike."""
    captions = ["a red cat", "a dog", "a sks cat", "a cat"]
    photos, prior = Denoiser(pipe).encode(pictures(0)), Denoiser(pipe).encode(pictures(1))
    config = replace(SMALL, prior_loss_weight=0.3, train_batch_size=4)
    batch = draw_batches(pipe, photos, prior, config)(torch.Generator().manual_seed(0))
    with torch.no_grad():
        live = subject_loss(pipe, captions, config)(batch)
        frozen = subject_loss(pipe, captions, replace(config, train_text_encoder=False))(batch)
        other = subject_loss(pipe, ["a bus", *captions[1:]], config)(batch)
        alone = subject_loss(pipe, captions, config)({k: v for k, v in batch.items() if k.startswith("instance")})
    assert torch.allclose(live["loss"], live["instance"] + 0.3 * live["class"])
    assert torch.allclose(live["loss"], frozen["loss"], atol=1e-6) and not torch.equal(live["loss"], other["loss"])
    assert torch.allclose(alone["loss"], live["instance"], atol=1e-6)
    assert set(batch["instance_index"].tolist()) <= {0, 1, 2}
    with pytest.raises(ValueError, match="one for each"):
        train(pipe, pictures(0), [], config, captions=["a cat"])


def test_alpha_and_rate_are_one_knob_under_adam(pipe):
    """The first step's change must be equally long; with another optimiser, or alpha unused, it would not be."""
    ratio = ev.one_step_ratio(SMALL, lambda config: train(pipe, pictures(0), pictures(1), config).lora)
    assert ratio == pytest.approx(1, rel=0.01)
    steps = [replace(SMALL, lora_alpha=alpha, max_train_steps=1) for alpha in (6, 12)]
    lengths = [train(pipe, pictures(0), pictures(1), step).lora.norm() for step in steps]
    assert lengths[1] / lengths[0] == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("wrong", [
    {"rank": 0}, {"lora_alpha": float("nan")}, {"learning_rate": 1.0}, {"max_train_steps": True},
    {"prior_loss_weight": -1}, {"init_lora_weights": "xavier"}, {"projections": "q w"},
])  # fmt: skip
def test_config_refuses_what_is_out_of_range(wrong):
    """Before a training of half a minute, not after."""
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        LoRAConfig(**wrong)


def test_adapting_nothing_is_refused(pipe):
    """No layer would be trained, and fit would fail with a riddle."""
    with pytest.raises(ValueError, match="nothing is adapted"):
        train(pipe, pictures(0), pictures(1), replace(SMALL, projections="", train_text_encoder=False))


def test_parts_can_be_switched_off(pipe):
    """The toggles of the notebook: each removes its own layers, and the rest stays."""
    lora = random_lora(pipe, 0)
    pieces = {"text_encoder": "text_encoder.", "self_attention": ".attn1.", "cross_attention": ".attn2."}
    for switch, piece in pieces.items():
        left = ev.part(lora, **{switch: False})
        assert 0 < len(left.factors) < len(lora.factors) and not [name for name in left.factors if piece in name]
    shares = inside.share_by_kind(lora)
    assert sum(shares.values()) == pytest.approx(1) and "text encoder" in shares and "attn2.to_k" in shares


def test_amplification_tells_w_s_own_directions_from_random_ones():
    """W is longest in its own directions; a change along them has a small factor, a random one a large one."""
    torch.manual_seed(0)
    weight = torch.randn(40, 30) * 0.9 ** torch.arange(30)
    u, s, vh = torch.linalg.svd(weight)
    aligned = amplification(u[:, :3] @ vh[:3], weight, 3)
    assert aligned["change"] == pytest.approx(aligned["weight"], rel=1e-4) and aligned["random"] < aligned["weight"] / 3
    across = amplification(torch.randn(40, 3) @ torch.randn(3, 30), weight, 3)
    assert across["change"] < aligned["change"] / 3


def test_style_pictures_share_the_style_and_do_not_name_it():
    """The second LoRA must be a style: many nouns, captions that leave it unsaid, without the subject's noun."""
    images, captions = ev.style_pictures("sketch", 12, 32, without=["cat"])
    assert len(images) == 12 and images[0].size == (32, 32) and len(set(captions)) > 8
    assert not [c for c in captions if "style" in c or "cat" in c] and len(captions[0].split()) > 3


def test_effects_have_the_signs_of_the_card():
    """Method minus baseline, and rank 1 against the middle of two; a swapped pair would turn a verdict round."""
    found = {"untouched": 0.0, "LoRA": 0.8, "half": 0.6, "rank 1": 0.4, "rank 64": 0.7, "q alone": 0.2, "low rate": 0.1}
    effects = ev.effects_of_trainings(
        {name: {"x": value} for name, value in found.items()}, {"layer": 0.3}, {"layer": {"change": 2.0, "random": 0.5}}
    )
    expected = {
        "teaches_the_subject": 0.8, "rank_one_gets_most": 0.05, "spread_beats_query": 0.4, "needs_larger_rate": 0.5,
        "top_directions_shared": 0.3, "change_is_no_noise": 1.5,
    }  # fmt: skip
    assert {id: round(*values.values(), 6) for id, values in effects.items()} == expected
    claims = {claim.id for claim in load_card("lora").claims}
    assert set(expected) <= claims


def test_presets_are_valid_configurations():
    """A preset that the config refuses would stop a sweep at its first point."""
    fields = set(LoRAConfig.__dataclass_fields__)
    presets = load_presets("lora")
    for values in presets.values():
        LoRAConfig(**{name: value for name, value in values.items() if name in fields})
    assert {"rank_1", "sd15", "paper_placement"} <= set(presets)


def test_exercise_on_extraction(capsys):
    """Accepts the smallest rank alone, in either split of the singular values, and names the usual mistakes."""

    def right(change, share, square=True, more=0):
        u, s, vh = torch.linalg.svd(change, full_matrices=False)
        energy = s.square() if square else s
        rank = int((energy.cumsum(0) / energy.sum() < share).sum()) + 1 + more
        return vh[:rank], u[:, :rank] * s[:rank]

    check = exercises.check_extraction
    check(right)
    assert "right" in capsys.readouterr().out
    refuses(check, lambda c, s: right(c, s)[::-1], "A reads the input")
    refuses(check, lambda c, s: right(c, s, more=1), "more than needed")
    refuses(check, lambda c, s: right(c, s, square=False), "more than needed")
    refuses(check, lambda c, s: right(c, s, more=-1), "keeps")
    refuses(check, lambda c, s: (right(c, s)[0], right(c, s)[1] / 2), "off by")
    refuses(check, lambda c, s: None, "each a tensor")


def test_exercise_on_the_scale(capsys):
    """Accepts the root for plain descent and the rank for Adam, whatever the constant; alpha / r for both is wrong."""
    check = exercises.check_scale
    check(lambda rank, optimiser: 8 * rank**-0.5 if optimiser == "sgd" else 8 / rank)
    assert "right" in capsys.readouterr().out
    refuses(check, lambda rank, optimiser: 1 / rank, "sgd.*twice")
    refuses(check, lambda rank, optimiser: rank**-0.5, "adam.*once")
    refuses(check, lambda rank, optimiser: 1.0, "sgd")
    refuses(check, lambda rank, optimiser: 0.0, "sought 1")
