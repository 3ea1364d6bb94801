"""Tests of papers/style_aligned: parity with the usual implementation, identities, knobs, exercises."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from diffusers import EulerDiscreteScheduler
from paper_checks import refuses
from PIL import Image
from torch import Tensor

from papers.style_aligned import exercises, method
from papers.style_aligned.mass import record_reference_map, record_reference_mass
from papers.style_aligned.method import StyleAlignedConfig, generate, starting_latents, style_aligned
from studylib.denoisers.call import AttentionCall
from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.inversion import ddim_inversion
from studylib.denoisers.sites import Site
from studylib.evidence.card import load_card
from studylib.evidence.paper import load_presets
from studylib.measuring.views import draw_pictures
from tests import tiny_pipelines
from tests.papers import style_aligned_processors

PIPELINES = {"sd": tiny_pipelines.sd, "sdxl": tiny_pipelines.sdxl}
PROMPTS = ["a toy train", "a toy boat", "a toy bear"]
OFF, DEFAULT = StyleAlignedConfig.off(), StyleAlignedConfig()
NO_NORMS = dataclasses.replace(DEFAULT, share_group_norm=False, share_layer_norm=False)


@pytest.fixture(scope="module", params=PIPELINES)
def pipe(request):
    return PIPELINES[request.param]()


@pytest.fixture(scope="module")
def sd():
    return tiny_pipelines.sd()


def sample(pipe, config=None, *, prompts=PROMPTS, guidance_scale=5.0, latents=None, steps=2) -> Tensor:
    """Final latents (set, C, h, w); no config: the untouched pipeline."""
    arguments = {
        "latents": starting_latents(pipe, len(prompts), 0) if latents is None else latents,
        "guidance_scale": guidance_scale, "num_inference_steps": steps, "output_type": "latent",
    }
    if config is None:
        return pipe(prompts, **arguments).images
    with style_aligned(pipe, config, set_size=len(prompts)):
        return pipe(prompts, **arguments).images


def gap(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


VARIANTS = {
    "defaults": DEFAULT,
    "no norms": NO_NORMS,
    "group norm alone": StyleAlignedConfig.off(share_group_norm=True),
    "sharing without AdaIN": StyleAlignedConfig.off(share_attention=True),
    "AdaIN of queries": StyleAlignedConfig.off(share_attention=True, adain_queries=True),
    "AdaIN of keys": StyleAlignedConfig.off(share_attention=True, adain_keys=True),
    "AdaIN of values": dataclasses.replace(NO_NORMS, adain_values=True),
    "AdaIN without sharing": dataclasses.replace(NO_NORMS, share_attention=False),
    "full": dataclasses.replace(NO_NORMS, full_attention_share=True),
    "full with norms": dataclasses.replace(DEFAULT, full_attention_share=True),
    "full without sharing": StyleAlignedConfig.off(full_attention_share=True),
    "scale": dataclasses.replace(NO_NORMS, shared_score_scale=0.5),
    "shift": dataclasses.replace(NO_NORMS, shared_score_shift=math.log(2)),
    "scale and shift": dataclasses.replace(DEFAULT, shared_score_scale=1.3, shared_score_shift=-1.0),
    "few layers alone": dataclasses.replace(DEFAULT, only_self_level=0.3),
    "most layers alone": dataclasses.replace(DEFAULT, only_self_level=0.7),
    "all layers alone": dataclasses.replace(DEFAULT, only_self_level=1.0),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("backbone", PIPELINES)
def test_equals_the_usual_implementation(backbone, name):
    """Hooks must compute what replaced processors and patched norms compute, whichever knobs are set."""
    config = VARIANTS[name]
    pipe, usual = PIPELINES[backbone](), PIPELINES[backbone]()
    style_aligned_processors.install(usual.unet, config)
    ours, theirs = sample(pipe, config), sample(usual)
    assert gap(ours, theirs) <= 2e-5  # float32, sums in another order: 1.05e-5 was seen
    if config.only_self_level < 1 or config.share_group_norm:
        assert gap(ours, sample(pipe)) > 1e-3  # both could agree by doing nothing


def test_off_is_identity(pipe):
    """With every knob off the pipeline must draw the untouched pipeline's pictures, bit for bit."""
    assert torch.equal(sample(pipe, OFF), sample(pipe))
    pictures = generate(pipe, PROMPTS, OFF, seed=3, num_inference_steps=2)
    noise = starting_latents(pipe, 3, 3)
    plain = pipe(PROMPTS, latents=noise, num_inference_steps=2, guidance_scale=5.0).images
    assert [p.tobytes() for p in pictures] == [p.tobytes() for p in plain]


def test_leaves_the_pipeline_as_it_was(pipe):
    """A notebook compares many settings on one pipeline: none may outlive its block, or an error in it."""
    before = sample(pipe)
    sample(pipe, dataclasses.replace(DEFAULT, full_attention_share=True))
    with pytest.raises(KeyboardInterrupt), style_aligned(pipe, DEFAULT, set_size=3):
        raise KeyboardInterrupt
    assert torch.equal(sample(pipe), before)


@pytest.mark.parametrize(
    "change",
    [
        {"share_group_norm": False}, {"share_attention": False}, {"adain_queries": False},
        {"adain_keys": False}, {"adain_values": True}, {"full_attention_share": True},
        {"shared_score_scale": 0.7}, {"shared_score_shift": 0.5}, {"only_self_level": 0.3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_on_is_different(pipe, change):
    """Each knob but one must do something to the targets, or its comparison in the notebook is void."""
    assert gap(sample(pipe, dataclasses.replace(DEFAULT, **change))[1:], sample(pipe, DEFAULT)[1:]) > 1e-4


def test_layer_norm_flag_changes_nothing(pipe):
    """The one knob that cannot do anything: it must really run and leave every bit as it is."""
    for config in (OFF, NO_NORMS, dataclasses.replace(DEFAULT, share_layer_norm=False)):
        switched_on = dataclasses.replace(config, share_layer_norm=True)
        assert torch.equal(sample(pipe, switched_on), sample(pipe, config))


def test_layer_norm_flag_is_not_skipped(sd):
    """The flag goes through the same joint normalisation as the group norms, on twice the tokens."""
    seen = []
    norm = sd.unet.mid_block.attentions[0].transformer_blocks[0].norm1
    forward = norm.forward
    norm.forward = lambda x: (seen.append(x.shape[-2]), forward(x))[1]
    try:
        sample(sd)
        sample(sd, StyleAlignedConfig.off(share_layer_norm=True))
    finally:
        del norm.forward
    assert seen[-1] == 2 * seen[0]


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("full")])
def test_reference_is_a_fixed_point(pipe, name):
    """Sharing must not touch the reference: its own keys again, its own statistics again."""
    assert gap(sample(pipe, VARIANTS[name])[0], sample(pipe)[0]) <= 1e-5


def test_full_sharing_moves_the_reference(pipe):
    """The paper's ablation has no reference: its first picture changes as the others do."""
    assert gap(sample(pipe, VARIANTS["full"])[0], sample(pipe)[0]) > 1e-3


def test_group_norm_moves_targets_and_not_the_reference(pipe):
    """Statistics of the pair: the reference's pair is itself twice."""
    shared, plain = sample(pipe, VARIANTS["group norm alone"]), sample(pipe)
    assert gap(shared[0], plain[0]) <= 1e-5
    assert gap(shared[1:], plain[1:]) > 1e-3


def test_adain_stays_when_sharing_alone_is_off(pipe):
    """The released code's behaviour, kept and told: share_attention=False is not the base model."""
    adain_left = dataclasses.replace(NO_NORMS, share_attention=False)
    assert gap(sample(pipe, adain_left)[1:], sample(pipe)[1:]) > 1e-4
    nothing_left = dataclasses.replace(adain_left, adain_queries=False, adain_keys=False)
    assert torch.equal(sample(pipe, nothing_left), sample(pipe))


def test_a_set_grows_in_several_batches(pipe):
    """The same reference prompt and noise give the same target, whichever other targets are beside it."""
    noise = starting_latents(pipe, 3, 0)
    whole = sample(pipe, DEFAULT, latents=noise)
    first = sample(pipe, DEFAULT, prompts=PROMPTS[:2], latents=noise[:2])
    second = sample(pipe, DEFAULT, prompts=PROMPTS[::2], latents=noise[::2])
    assert gap(torch.cat([first, second[1:]]), whole) <= 1e-5
    assert torch.equal(starting_latents(pipe, 2, 0), noise[:2])


def test_several_sets_in_one_call(pipe):
    """Sets in a row must not mix, with guidance on."""
    noise = starting_latents(pipe, 4, 0)
    prompts = [*PROMPTS, "a toy owl"]
    with style_aligned(pipe, DEFAULT, set_size=2):
        both = sample(pipe, prompts=prompts, latents=noise)
    for rows in (slice(0, 2), slice(2, 4)):
        alone = sample(pipe, DEFAULT, prompts=prompts[rows], latents=noise[rows])
        assert gap(both[rows], alone) <= 1e-5


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("name", ["defaults", "full", "scale and shift"])
def test_a_set_of_one_is_the_plain_picture(pipe, name, guidance_scale):
    """A reference alone has nobody to share with; the released code stops on it."""
    alone = sample(pipe, VARIANTS[name], prompts=PROMPTS[:1], guidance_scale=guidance_scale)
    assert gap(alone, sample(pipe, prompts=PROMPTS[:1], guidance_scale=guidance_scale)) <= 1e-5


def test_without_guidance_there_is_one_half(pipe):
    """Without guidance nothing is doubled: the middle picture must not become a second reference."""
    shared = sample(pipe, DEFAULT, guidance_scale=1.0)
    plain = sample(pipe, guidance_scale=1.0)
    assert gap(shared[0], plain[0]) <= 1e-5
    assert min(gap(shared[i], plain[i]) for i in (1, 2)) > 1e-3
    pair = sample(
        pipe, DEFAULT, prompts=PROMPTS[::2], latents=starting_latents(pipe, 3, 0)[::2], guidance_scale=1.0,
    )
    assert gap(pair[1], shared[2]) <= 1e-5  # the third picture's reference is the first


def test_a_batch_that_is_no_row_of_sets_is_refused(sd):
    """A wrong set size would share with a wrong reference in silence."""
    with pytest.raises(ValueError, match="set_size"), style_aligned(sd, DEFAULT, set_size=4):
        sd(PROMPTS, num_inference_steps=1)


def attend(query, key, value, config, mask=None) -> Tensor:
    site, everywhere = Site("attn1", "self", 0), slice(0, key.shape[2])
    call = AttentionCall(site, 0, 1.0, query, key, value, mask, query[:, 0], {"image": everywhere})
    output = method.share_style(config, set_size=query.shape[0])(call)
    return call.attend() if output is None else output


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_shift_of_log_m_shows_the_reference_m_times(copies):
    """The exact meaning of shared_score_shift: a token's weight times e^s."""
    query, key, value = torch.randn(3, 2, 2, 6, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    config = StyleAlignedConfig.off(share_attention=True, shared_score_shift=math.log(copies))
    target = attend(query, key, value, config)[1]
    keys, values = (torch.cat([x[1], *[x[0]] * copies], dim=1) for x in (key, value))
    torch.testing.assert_close(target, F.scaled_dot_product_attention(query[1], keys, values))


@pytest.mark.parametrize("shift", [0.0, 0.7])
@pytest.mark.parametrize("per_item", [True, False])
def test_an_attention_mask_survives_sharing(per_item, shift):
    """Hidden tokens stay hidden, the reference's too; the released code forgets the mask."""
    query, key, value = torch.randn(3, 2, 2, 6, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    mask = torch.ones(2 if per_item else 1, 1, 1, 6, dtype=torch.bool)
    mask[0, ..., -2:] = False
    config = StyleAlignedConfig.off(share_attention=True, shared_score_shift=shift)
    masked = attend(query, key, value, config, mask)[1]
    own = slice(0, 6) if per_item else slice(0, 4)  # per item only the reference hides two tokens
    keys, values = (torch.cat([x[1][:, own], x[0][:, :4]], dim=1) for x in (key, value))
    bias = torch.zeros(keys.shape[1])
    bias[-4:] = shift
    torch.testing.assert_close(masked, F.scaled_dot_product_attention(query[1], keys, values, attn_mask=bias))


def test_adain_takes_the_references_statistics():
    """Equation 2, per head and channel over tokens; one token must not divide by zero."""
    features = torch.randn(4, 3, 50, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
    aligned = method.adain(features, 2)
    for half in (0, 2):
        torch.testing.assert_close(aligned[half + 1].mean(1), features[half].mean(1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(aligned[half + 1].std(1), features[half].std(1), rtol=1e-4, atol=1e-4)
    one = method.adain(features[:, :, :1], 2)
    torch.testing.assert_close(one, method.expand_reference(features[:, :, :1], 2))


def test_adain_raises_the_mass_on_the_reference():
    """The paper's reason for AdaIN: features that differ in their mean alone hardly look at each other."""
    masses = []
    for adain in (False, True):
        generator = torch.Generator().manual_seed(0)
        content = torch.randn(2, 1, 64, 8, generator=generator)
        content[1] += 3 * torch.randn(8, generator=generator)
        config = StyleAlignedConfig.off(share_attention=True, adain_queries=adain, adain_keys=adain)
        sees_reference = torch.zeros_like(content)
        sees_reference[0] = 1  # the reference's values are 1, the target's 0: the output is the mass
        masses.append(attend(content, content, sees_reference, config)[1].mean().item())
    assert masses[1] > masses[0] + 0.2


@pytest.mark.parametrize(
    ("layers", "level", "alone"),
    [
        (70, 0.3, 24), (70, 0.7, 46), (70, 0.0, 0), (70, 1.0, 70), (70, 0.5, 35),
        (8, 0.1, 0), (8, 0.95, 8), (7, 0.3, 3),
    ],
)
def test_only_self_level_rounds_as_the_released_code(layers, level, alone):
    """Crude whole strides, 24 of 70 for 0.3; too little for one layer means none, where that code stops."""
    assert sum(method.unshared_layers(layers, level)) == alone


def test_only_self_level_too_low_for_a_layer_shares_all(sd):
    """On seven layers a tenth is less than one: the whole pipeline runs and shares everywhere."""
    config = dataclasses.replace(DEFAULT, only_self_level=0.1)
    assert torch.equal(sample(sd, config), sample(sd, DEFAULT))
    with style_aligned(sd, config, set_size=3) as sites:
        assert len(sites) == 7 and all(site.kind == "self" for site in sites)


def test_mass_on_the_reference_is_recorded(pipe):
    """The recorder sees what sharing made: 0 when off, more with a shift, 1/2 for twins, 1/n when full."""
    totals = []
    shifted = [dataclasses.replace(NO_NORMS, shared_score_shift=shift) for shift in (-1.0, 0.0, 1.0)]
    for config in (OFF, *shifted):
        with record_reference_mass(pipe, set_size=3) as masses:
            sample(pipe, config)
        assert {step for _, step in masses} == {0, 1}
        assert len(masses) == 2 * sum("attn1" in name for name in pipe.unet.attn_processors)
        totals.append(sum(masses.values()) / len(masses))
    assert totals[0] == 0 < totals[1] < totals[2] < totals[3] < 1
    twins = starting_latents(pipe, 1, 0).repeat(3, 1, 1, 1)
    for config, expected in ((NO_NORMS, 1 / 2), (VARIANTS["full"], 1 / 3)):
        with record_reference_mass(pipe, set_size=3) as masses:
            sample(pipe, config, prompts=PROMPTS[:1] * 3, latents=twins)
        assert all(abs(mass - expected) < 1e-4 for mass in masses.values())


@pytest.mark.parametrize("offset", [0, 2])
def test_reference_picture_follows_its_trajectory(pipe, offset):
    """After every step item 0 must lie on the inverted trajectory, never nearer to the noise than offset."""
    steps = 4
    trajectory = torch.randn(steps + 1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    seen = []

    def watch(pipe, step, timestep, tensors):
        seen.append(tensors["latents"].clone())
        return tensors

    pictures = generate(
        pipe, PROMPTS, DEFAULT, num_inference_steps=steps, guidance_scale=10.0,
        reference_trajectory=trajectory, offset=offset, callback=watch,
    )
    expected = [trajectory[max(offset, step) + 1] for step in range(steps)]
    assert all(torch.equal(latents[0], on_it) for latents, on_it in zip(seen, expected, strict=True))
    free = generate(pipe, PROMPTS, DEFAULT, num_inference_steps=steps, guidance_scale=10.0)
    assert pictures[1].tobytes() != free[1].tobytes()  # targets see another reference


def test_an_inverted_picture_comes_back_as_the_reference(pipe):
    """From picture to set: the first picture of the set is the VAE's copy of what was inverted."""
    picture = Image.linear_gradient("L").resize((16, 16)).convert("RGB")
    trajectory = ddim_inversion(Denoiser(pipe), picture, PROMPTS[0], num_inference_steps=3, guidance_scale=2.0)
    pictures = generate(
        pipe, PROMPTS, DEFAULT, num_inference_steps=3, guidance_scale=10.0, reference_trajectory=trajectory,
    )
    copied = Denoiser(pipe).decode(Denoiser(pipe).encode([picture]).mean)
    assert pictures[0].tobytes() == copied[0].tobytes()


def test_reference_map_tells_one_targets_mass(sd):
    """The map under the pointer must be the recorded attention, its shift included, of the target asked for."""
    config = dataclasses.replace(NO_NORMS, shared_score_shift=1.0)
    with record_reference_mass(sd, set_size=2) as masses:
        with record_reference_map(sd, set_size=2, target=1, step=1) as maps:
            sample(sd, config, prompts=PROMPTS[:2], guidance_scale=1.0)
    assert {tokens: tuple(weights.shape) for tokens, weights in maps.items()} == {16: (16, 16), 64: (64, 64)}
    sites_at = {64: 3, 16: 4}
    mapped = sum(maps[tokens].sum(dim=-1).mean().item() * count for tokens, count in sites_at.items())
    assert abs(mapped - sum(mass for (_, step), mass in masses.items() if step == 1)) < 1e-4


def test_a_trajectory_that_does_not_fit_is_refused(sd):
    """Wrong steps, wrong size, wrong sampler or wrong offset would only look like a bad style."""
    fits = torch.zeros(5, 4, 8, 8)
    cases = [
        ({"reference_trajectory": fits[1:]}, "same number of steps"),
        ({"reference_trajectory": torch.zeros(5, 4, 16, 16)}, "same number of steps"),
        ({"reference_trajectory": fits, "offset": 4}, "offset"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            generate(sd, PROMPTS, DEFAULT, num_inference_steps=4, **arguments)
    euler = tiny_pipelines.sd()
    euler.scheduler = EulerDiscreteScheduler.from_config(sd.scheduler.config)
    with pytest.raises(ValueError, match="use_ddim"):
        generate(euler, PROMPTS, DEFAULT, num_inference_steps=4, reference_trajectory=fits)


def test_a_pipeline_without_a_unet_is_refused():
    """On transformers with positions the method misbehaves in silence, so it must not start."""
    with pytest.raises(ValueError, match="UNet"), style_aligned(object(), DEFAULT, set_size=3):
        raise AssertionError("the block must not run")


def test_generate_leaves_the_callers_noise_alone(sd):
    """The same noise is used for the baseline and every setting: it must not be overwritten."""
    noise = starting_latents(sd, 3, 0)
    kept = noise.clone()
    trajectory = torch.ones(3, 4, 8, 8)
    generate(sd, PROMPTS, DEFAULT, latents=noise, num_inference_steps=2, reference_trajectory=trajectory)
    assert torch.equal(noise, kept)


@pytest.mark.parametrize(
    ("knobs", "error"),
    [
        ({"share_layer_norm": (True,)}, TypeError), ({"share_attention": 1}, TypeError),
        ({"only_self_level": 1.2}, ValueError), ({"shared_score_scale": -0.1}, ValueError),
        ({"shared_score_shift": math.nan}, ValueError), ({"shared_score_shift": True}, TypeError),
    ],
)
def test_config_refuses_what_means_nothing(knobs, error):
    """Errors must name the knob before a picture is drawn; the tuple is the released code's own default."""
    with pytest.raises(error, match=next(iter(knobs))):
        StyleAlignedConfig(**knobs)


def test_card_and_presets_fit_the_config():
    """Knobs on the card exist with the config's range, and every preset builds a config."""
    card = load_card("style_aligned")
    fields = {field.name for field in dataclasses.fields(StyleAlignedConfig)}
    assert fields <= set(card.knobs)
    for name, (low, high) in StyleAlignedConfig.ranges().items():
        assert (card.knobs[name].min, card.knobs[name].max) == (low, high)
    presets = load_presets("style_aligned")
    for values in presets.values():
        assert set(values) <= set(card.knobs) | {"model", "seed"}
        StyleAlignedConfig(**{name: value for name, value in values.items() if name in fields})
    assert StyleAlignedConfig(**presets["no_sharing"]) == OFF
    assert {"exact", "directional", "beyond"} == {claim.kind for claim in card.claims}


def right_statistics(target, reference, groups):
    if groups is None:
        return target.mean(-1, keepdim=True), target.var(-1, correction=0, keepdim=True)
    joint = torch.cat([target, reference], dim=2).unflatten(1, (groups, -1))
    return joint.mean((2, 3, 4)), joint.var((2, 3, 4), correction=0)


def test_exercise_on_norms(capsys):
    """The check must accept the union's statistics and name the usual mistakes."""
    check = exercises.check_shared_statistics
    check(right_statistics)
    assert "right" in capsys.readouterr().out

    def averaged(target, reference, groups):
        if groups is None:
            return right_statistics(target, reference, groups)
        parts = [right_statistics(x, x, groups) for x in (target, reference)]
        return tuple((a + b) / 2 for a, b in zip(*parts, strict=True))

    def over_tokens(target, reference, groups):
        if groups is None:
            joint = torch.cat([target, reference], dim=1)
            return joint.mean(1, keepdim=True), joint.var(1, correction=0, keepdim=True)
        return right_statistics(target, reference, groups)

    def paired_tokens(target, reference, groups):
        if groups is None:
            return right_statistics(torch.cat([target, reference], dim=-1), None, None)
        return right_statistics(target, reference, groups)

    def unbiased(target, reference, groups):
        if groups is None:
            return target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        joint = torch.cat([target, reference], dim=2).unflatten(1, (groups, -1))
        return joint.mean((2, 3, 4)), joint.var((2, 3, 4))

    refuses(check, averaged, "distance between the two means")
    refuses(check, over_tokens, "right axes")
    refuses(check, paired_tokens, "over the channels of one token")
    refuses(check, unbiased, "divides by n")
    refuses(check, lambda t, r, groups: right_statistics(t, t, groups), "reference")
    refuses(check, lambda t, r, groups: None, "mean, variance")


def test_exercise_on_shift(capsys):
    """The check must accept log m alone and tell how much too much or too little is seen."""
    check = exercises.check_shift_for_copies
    check(math.log)
    assert "right" in capsys.readouterr().out
    refuses(check, lambda copies: copies - 1, "too much")
    refuses(check, lambda copies: math.log2(copies), "too much")
    refuses(check, lambda copies: 0.0, "too little")
    refuses(check, lambda copies: None, "number")


def test_exercise_on_values(capsys):
    """The check must accept the difference of the means and refuse its negative, the mean alone and zero."""
    check = exercises.check_colour_shift
    check(lambda target, reference: reference.mean(0) - target.mean(0))
    assert "right" in capsys.readouterr().out
    refuses(check, lambda target, reference: target.mean(0) - reference.mean(0), "sign")
    refuses(check, lambda target, reference: reference.mean(0), "arrive")
    refuses(check, lambda target, reference: torch.zeros(target.shape[1]), "moves")
    refuses(check, lambda target, reference: 0.5 * (reference.mean(0) - target.mean(0)), "off by")
    refuses(check, lambda target, reference: reference - target, "shape")


def test_sets_are_not_cut_across(sd):
    """Two pictures of each prompt stand beside each other: sets began in their middle, and styles were mixed up."""
    few = {"num_inference_steps": 1, "output_type": "latent"}
    with style_aligned(sd, DEFAULT, set_size=3):
        with pytest.raises(ValueError, match="num_images_per_prompt cuts the sets across"):
            sd(PROMPTS[:3], num_images_per_prompt=2, **few)
        for prompts in (PROMPTS[:2], "a cat", [*PROMPTS[:3], "a cat"]):
            with pytest.raises(ValueError, match="are no row of sets of 3"):
                sd(prompts, **few)
        embeds = torch.zeros(2, 16, 32)
        with pytest.raises(ValueError, match="2 prompts are no row of sets of 3"):
            sd(prompt_embeds=embeds, negative_prompt_embeds=embeds, **few)
        sd([*PROMPTS[:3], *PROMPTS[:3]], **few)
        Denoiser(sd).prompt(["a text of its own"])
    assert "encode_prompt" not in vars(sd)
    sd(PROMPTS[:1], num_images_per_prompt=2, **few)


def test_one_text_is_not_taken_letter_by_letter(sd):
    """A forgotten pair of brackets drew five pictures, of "a", " ", "c", "a" and "t"."""
    with pytest.raises(TypeError, match=r"prompts is a list of texts, a single one as \['a cat'\]"):
        generate(sd, "a cat", DEFAULT, num_inference_steps=1)
    with pytest.raises(TypeError, match="list of texts"):
        draw_pictures(sd, "a cat", range(5), num_inference_steps=1)
    with pytest.raises(TypeError, match="list of texts"):
        Denoiser(sd).draw("a cat", num_inference_steps=1)
