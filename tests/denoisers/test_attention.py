"""The attention hook on the five kinds of denoiser that the papers use, real classes at tiny size."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    DDIMScheduler,
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor, SD3IPAdapterJointAttnProcessor2_0
from diffusers.models.embeddings import IPAdapterPlusImageProjection, MultiIPAdapterImageProjection
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor
from peft import LoraConfig
from torch import Tensor, nn

from studylib.denoisers.attention import attention_hook, record_attention
from studylib.denoisers.call import AttentionCall
from studylib.denoisers.places import appended_tokens
from studylib.denoisers.sites import TEXT_FIRST, Site, Where, sites

KINDS = {"unet": {"self", "cross"}, "pixart": {"self", "cross"}, "sd3": {"joint", "self"}, "flux": {"joint"},
         "dit": {"self"}}
DENOISERS = pytest.mark.parametrize("name", KINDS)
TEXT_TOKENS, IMAGE_TOKENS = 5, 16
TORCHS_OWN = F.scaled_dot_product_attention
FIRST_SELF = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
FIRST_CROSS = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "attention_head_dim": 4}
    latents = {"in_channels": 4, "sample_size": 8, "patch_size": 2}
    text = {"joint_attention_dim": 6, "pooled_projection_dim": 6}
    if name == "unet":
        denoiser = UNet2DConditionModel(
            sample_size=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
            attention_head_dim=2, cross_attention_dim=6,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
    elif name == "pixart":
        denoiser = PixArtTransformer2DModel(
            **heads, **latents, out_channels=8, num_layers=2, cross_attention_dim=8, caption_channels=6,
            use_additional_conditions=False,
        )
    elif name == "sd3":
        denoiser = SD3Transformer2DModel(
            **heads, **latents, **text, out_channels=4, num_layers=2, caption_projection_dim=8,
            pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm="rms_norm",
        )
    elif name == "flux":
        denoiser = FluxTransformer2DModel(
            **text, in_channels=4, patch_size=1, num_layers=1, num_single_layers=1, num_attention_heads=2,
            attention_head_dim=16, axes_dims_rope=(4, 4, 8),
        )
    else:
        denoiser = DiTTransformer2DModel(
            **heads, **latents, out_channels=8, num_layers=2, num_embeds_ada_norm=1000, norm_num_groups=4,
        )
    return denoiser.eval()


def inputs(name: str, timestep: Any = 500, batch: int = 2) -> dict[str, Any]:
    """Arguments of one forward, 16 image tokens at the first site, 5 text tokens."""
    rng = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=rng)

    if not isinstance(timestep, Tensor) and name != "unet":
        timestep = torch.full((batch,), timestep)
    text = {"encoder_hidden_states": normal(TEXT_TOKENS, 6), "timestep": timestep}
    if name == "unet":
        return {"sample": normal(4, 4, 4), **text}
    if name == "pixart":
        return {"hidden_states": normal(4, 8, 8), **text}
    if name == "sd3":
        return {"hidden_states": normal(4, 8, 8), "pooled_projections": normal(6), **text}
    if name == "flux":
        ids = {"img_ids": torch.zeros(IMAGE_TOKENS, 3), "txt_ids": torch.zeros(TEXT_TOKENS, 3)}
        return {"hidden_states": normal(IMAGE_TOKENS, 4), "pooled_projections": normal(6), **text, **ids}
    return {"hidden_states": normal(4, 8, 8), "timestep": timestep, "class_labels": torch.arange(batch)}


@torch.no_grad()
def predict(denoiser: nn.Module, name: str, **changes: Any) -> Tensor:
    return denoiser(**inputs(name) | changes, return_dict=False)[0]


def everywhere(site: Site) -> bool:
    return True


def nothing(call: AttentionCall) -> None:
    return None


def calls_of(
    denoiser: nn.Module, name: str, where: Where = everywhere, **changes: Any,
) -> list[AttentionCall]:
    calls: list[AttentionCall] = []
    with attention_hook(denoiser, calls.append, where=where):
        predict(denoiser, name, **changes)
    return calls


def load_ip_adapter(unet: nn.Module, adapters: int = 1) -> dict[str, Any]:
    """Load random IP-Adapters of four tokens each; returns the argument that holds their image prompts."""
    rng = torch.Generator().manual_seed(2)
    states = []
    for _ in range(adapters):
        projection = {"proj.weight": (24, 7), "proj.bias": (24,), "norm.weight": (6,), "norm.bias": (6,)}
        widths = [unet.get_submodule(site.name).inner_dim for site in sites(unet) if site.kind == "cross"]
        layers = {f"{2 * i + 1}.to_{x}_ip.weight": (width, 6) for i, width in enumerate(widths) for x in "kv"}
        states.append({
            "image_proj": {key: torch.randn(shape, generator=rng) for key, shape in projection.items()},
            "ip_adapter": {key: torch.randn(shape, generator=rng) for key, shape in layers.items()},
        })
    unet._load_ip_adapter_weights(states, low_cpu_mem_usage=False)
    image_embeds = [torch.randn(2, 1, 7, generator=rng) for _ in range(adapters)]
    return {"added_cond_kwargs": {"image_embeds": image_embeds}}


# What a hook is given


@DENOISERS
def test_a_hook_that_does_nothing_changes_no_bit(name: str) -> None:
    """Measurements under a hook mean nothing if the hook itself disturbs the model, then or afterwards."""
    denoiser = build(name)
    before = predict(denoiser, name)
    seen = []
    with attention_hook(denoiser, lambda call: seen.append(call.site), where=everywhere) as matched:
        assert torch.equal(predict(denoiser, name), before)
    assert sorted(seen, key=lambda site: site.index) == matched == sites(denoiser)
    assert torch.equal(predict(denoiser, name), before)
    assert not any("forward" in module.__dict__ for module in denoiser.modules())


@DENOISERS
def test_sites_have_the_kinds_of_their_model(name: str) -> None:
    """`where="self"` must mean the same in every model; SD3's second attention reads the picture alone."""
    found = sites(build(name))
    assert {site.kind for site in found} == KINDS[name]
    assert [site.index for site in found] == list(range(len(found)))
    if name in ("unet", "pixart"):
        assert all((site.kind == "self") == site.name.endswith("attn1") for site in found)
    if name == "sd3":
        assert [site.name for site in found if site.kind == "self"] == ["transformer_blocks.0.attn2"]


@DENOISERS
def test_the_output_of_the_hook_is_used(name: str) -> None:
    """A hook whose tensor is dropped would pass every test of identity."""
    denoiser = build(name)

    def edit(call: AttentionCall) -> None:
        call.value = torch.ones_like(call.value)

    with attention_hook(denoiser, lambda call: torch.ones_like(call.attend()), where=everywhere):
        returned = predict(denoiser, name)
    with attention_hook(denoiser, edit, where=everywhere):
        edited = predict(denoiser, name)
    assert not torch.equal(returned, predict(denoiser, name))
    assert torch.allclose(returned, edited, atol=1e-5)


def test_queries_come_after_norm_and_rotary_embedding() -> None:
    """Tokens before the rotary embedding lack their position: a hook that moved them would be wrong."""
    flux = build("flux")
    placed = {"img_ids": torch.arange(IMAGE_TOKENS * 3.0).view(-1, 3)}
    origin, moved = calls_of(flux, "flux")[0], calls_of(flux, "flux", **placed)[0]
    assert origin.query.shape == (2, 2, TEXT_TOKENS + IMAGE_TOKENS, 16)
    assert not torch.allclose(origin.query[:, :, -1], moved.query[:, :, -1])
    assert torch.allclose(origin.query[:, :, -1].norm(dim=-1), moved.query[:, :, -1].norm(dim=-1), atol=1e-4)
    assert torch.equal(origin.value, moved.value)


@pytest.mark.parametrize(("name", "image_first"), [("sd3", True), ("flux", False)])
def test_joint_slices_tell_text_from_picture(name: str, image_first: bool) -> None:
    """SD3 puts the picture first and FLUX the text; swapped slices would edit the wrong tokens in silence."""
    denoiser = build(name)
    other_text = torch.randn(2, TEXT_TOKENS, 6)
    call = calls_of(denoiser, name, "joint")[0]
    other = calls_of(denoiser, name, "joint", encoder_hidden_states=other_text)[0]
    assert torch.equal(call.key[:, :, call.places["image"]], other.key[:, :, other.places["image"]])
    assert not torch.isclose(call.key[:, :, call.places["text"]], other.key[:, :, other.places["text"]]).any()
    assert call.key[:, :, call.places["image"]].shape[2] == call.hidden_states.shape[1] == IMAGE_TOKENS
    assert call.key[:, :, call.places["text"]].shape[2] == TEXT_TOKENS
    assert (call.places["image"].start == 0) == image_first


def test_slices_in_a_single_flux_block() -> None:
    """Its attention module gets one sequence and cannot know where the text ends; the hook must."""
    flux = build("flux")
    flux.transformer_blocks = nn.ModuleList()  # so that text and picture have not met before the single block
    name = "single_transformer_blocks.0.attn"
    call = calls_of(flux, "flux", name)[0]
    other = calls_of(flux, "flux", name, encoder_hidden_states=torch.randn(2, TEXT_TOKENS, 6))[0]
    assert torch.equal(call.key[:, :, call.places["image"]], other.key[:, :, call.places["image"]])
    assert not torch.isclose(call.key[:, :, call.places["text"]], other.key[:, :, call.places["text"]]).any()
    assert call.places == {"text": slice(0, TEXT_TOKENS), "image": slice(TEXT_TOKENS, TEXT_TOKENS + IMAGE_TOKENS)}


def test_slices_of_self_and_cross_attention() -> None:
    """One hook serves all kinds of site only if the slices are true where text or picture is missing."""
    for call in calls_of(build("unet"), "unet"):
        tokens = call.key.shape[2]
        assert call.places == {"image" if call.site.kind == "self" else "text": slice(0, tokens)}


def test_a_method_names_the_tokens_it_appends() -> None:
    """Condition tokens behind the picture's are no picture: hooks must be able to tell them apart."""
    sizes = {"sd3": ({"image": slice(0, 10), "condition": slice(10, 16), "text": slice(16, 21)}),
             "flux": {"text": slice(0, 5), "image": slice(5, 15), "condition": slice(15, 21)}}
    for name, places in sizes.items():
        with appended_tokens(condition=6):
            calls = calls_of(build(name), name, "joint")
        assert all(call.places == places for call in calls)
        assert "condition" not in calls_of(build(name), name, "joint")[0].places


def test_a_joint_model_of_unknown_order_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guessing the order of text and picture would be wrong half of the time."""
    monkeypatch.delitem(TEXT_FIRST, "FluxTransformer2DModel")
    with pytest.raises(LookupError, match="FluxTransformer2DModel put text or picture first"):
        calls_of(build("flux"), "flux")


# Steps


@pytest.mark.parametrize("as_tensor", [
    float, lambda t: torch.tensor(t), lambda t: torch.full((2,), t), lambda t: torch.full((2,), float(t)),
])
@pytest.mark.parametrize("positional", [True, False])
def test_the_step_is_read_from_the_timestep(as_tensor: Any, positional: bool) -> None:
    """Counting calls goes wrong with guidance in two passes, skipped layers and restarts."""
    unet, moments = build("unet"), []
    given = inputs("unet")
    with attention_hook(unet, lambda call: moments.append((call.step, call.timestep)), where=FIRST_SELF):
        for timestep in (801, 801, 401, 1, 801):
            timestep = as_tensor(timestep)
            if positional:
                unet(given["sample"], timestep, given["encoder_hidden_states"])
            else:
                unet(**given | {"timestep": timestep})
    assert moments == [(0, 801.0), (0, 801.0), (1, 401.0), (2, 1.0), (0, 801.0)]


def test_steps_follow_a_scheduler() -> None:
    """In a sampling loop step i must be the loop's i, and a new block must start at 0 again."""
    unet, scheduler = build("unet"), DDIMScheduler()
    scheduler.set_timesteps(4)
    for _ in range(2):
        steps = []
        with attention_hook(unet, lambda call: steps.append(call.step), where=FIRST_SELF):  # noqa: B023
            for timestep in scheduler.timesteps:
                predict(unet, "unet", timestep=timestep)
        assert steps == [0, 1, 2, 3]


def test_a_batch_of_several_timesteps_has_no_step() -> None:
    """In training every sample has its own timestep: one number would be a lie."""
    calls = calls_of(build("unet"), "unet", timestep=torch.tensor([10, 20]))
    assert {(call.step, call.timestep) for call in calls} == {(None, None)}


def test_a_missing_timestep_is_an_error() -> None:
    """DiT's timestep has the default None, so leaving it out would otherwise fail far away."""
    with pytest.raises(RuntimeError, match="ran without a timestep"):
        calls_of(build("dit"), "dit", timestep=None)


def test_a_hook_may_run_the_denoiser_again() -> None:
    """Reference methods run the model on another picture from within a hook; step and site survive."""
    unet, seen = build("unet"), []

    def run_again(call: AttentionCall) -> None:
        seen.append(call.step)
        if call.timestep == 500:
            predict(unet, "unet", timestep=7)
            seen.append(call.step)

    plain = predict(unet, "unet")
    with attention_hook(unet, run_again, where=[FIRST_SELF, FIRST_CROSS]):
        assert torch.equal(predict(unet, "unet"), plain)
    assert seen == [0, 1, 1, 0, 0, 1, 1, 0]


# Errors


@DENOISERS
def test_no_matching_site_names_the_kinds_present(name: str) -> None:
    """The classic silent failure: a walk over layers that matches nothing and changes nothing."""
    denoiser = build(name)
    absent = sorted({"self", "cross", "joint"} - KINDS[name])[0]
    for where in (absent, lambda site: False, []):
        with pytest.raises(LookupError, match="attention sites") as error:
            calls_of(denoiser, name, where)
        assert type(denoiser).__name__ in str(error.value)
        assert all(kind in str(error.value) for kind in KINDS[name])


def test_a_misspelt_name_is_named_with_the_nearest() -> None:
    """One wrong name in a list of right ones must not be dropped in silence."""
    misspelt = FIRST_CROSS.replace("attn2", "atn2")
    with pytest.raises(LookupError, match=f"(?s){misspelt}.*Did you mean '{FIRST_CROSS}'"):
        calls_of(build("unet"), "unet", [FIRST_SELF, misspelt])


def test_where_takes_names_sites_and_predicates() -> None:
    """All ways of saying the same layers must find the same layers, in the model's order."""
    unet = build("unet")
    wanted = [site for site in sites(unet) if site.name in (FIRST_SELF, FIRST_CROSS)]
    for where in ([FIRST_CROSS, FIRST_SELF], wanted[::-1], iter(wanted), lambda site: site in wanted):
        with attention_hook(unet, nothing, where=where) as matched:
            assert matched == wanted
    for where in (FIRST_SELF, wanted[0]):
        with attention_hook(unet, nothing, where=where) as matched:
            assert matched == wanted[:1]


def test_a_pipeline_in_place_of_its_denoiser() -> None:
    """The commonest slip of a newcomer deserves the answer, not an AttributeError."""
    with pytest.raises(TypeError, match="pipe.unet or pipe.transformer"):
        sites(object())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes no timestep"):
        calls_of(build("unet").mid_block, "unet")


class Passing:
    """An attention processor that never attends."""

    def __call__(
        self, attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: Any = None,
        attention_mask: Any = None, image_rotary_emb: Any = None, **_: Any,
    ) -> Any:
        joint = getattr(attn, "add_q_proj", None) is not None
        return (hidden_states, encoder_hidden_states) if joint else hidden_states


@DENOISERS
def test_a_site_that_never_attends_is_named(name: str) -> None:
    """A hook that is silently not called looks like a method that does not work."""
    denoiser = build(name)
    site = sites(denoiser)[-1]
    denoiser.get_submodule(site.name).set_processor(Passing())
    predict(denoiser, name)
    with pytest.raises(RuntimeError, match=f"Site {site.name} .*(?s:.*)Passing"):
        calls_of(denoiser, name)
    assert not any("forward" in module.__dict__ for module in denoiser.modules())
    others = [one for one in sites(denoiser) if one != site]
    assert len(calls_of(denoiser, name, others)) == len(others)


@pytest.mark.parametrize("change", [
    lambda unet: unet.set_attn_processor(AttnProcessor()), lambda unet: unet.set_attention_slice(1),
])
def test_diffusers_processors_with_their_own_softmax_are_named(change: Any) -> None:
    """Attention slicing and the old processor compute softmax themselves; the error tells how to undo it."""
    unet = build("unet")
    change(unet)
    with pytest.raises(RuntimeError, match="never called scaled_dot_product_attention.*AttnProcessor2_0"):
        calls_of(unet, "unet")


@DENOISERS
def test_a_wrong_output_shape_is_told_with_both_shapes(name: str) -> None:
    """Without the check a wrong shape fails in a projection far from the hook, or broadcasts."""
    denoiser = build(name)
    right = tuple(calls_of(denoiser, name)[0].query.shape)
    wrong = (1, *right[1:])
    with attention_hook(denoiser, lambda call: call.attend()[:1], where=everywhere):
        with pytest.raises(ValueError) as error:
            predict(denoiser, name)
    assert str(wrong) in str(error.value) and str(right) in str(error.value)


def test_an_edit_that_changes_the_output_shape_is_told() -> None:
    """The same holds for a hook that edits the query and returns None."""
    unet = build("unet")

    def shorten(call: AttentionCall) -> None:
        call.query = call.query[:, :, :3]

    with attention_hook(unet, shorten, where=FIRST_SELF):
        with pytest.raises(ValueError, match=r"\(2, 2, 3, 4\).*\(2, 2, 16, 4\)"):
            predict(unet, "unet")


def test_a_hook_that_returns_something_else() -> None:
    """`lambda call: calls.append(call) or True` is easily written."""
    unet = build("unet")
    with attention_hook(unet, lambda call: True, where="self"):  # type: ignore[arg-type, return-value]
        with pytest.raises(TypeError, match="Tensor or None, not a bool"):
            predict(unet, "unet")


def test_a_site_run_on_its_own_has_no_step() -> None:
    """A layer called outside its denoiser would otherwise report the step of the forward before."""
    unet = build("unet")
    with attention_hook(unet, nothing, where="self"):
        predict(unet, "unet")
        with pytest.raises(RuntimeError, match=f"{FIRST_SELF} ran outside its denoiser"):
            unet.get_submodule(FIRST_SELF)(torch.zeros(1, 16, 8))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_in_the_hook_restores_the_model(error: type[BaseException]) -> None:
    """A notebook is interrupted all the time; the next cell must find the model as it was."""
    unet = build("unet")
    before = predict(unet, "unet")

    def fail(call: AttentionCall) -> None:
        if call.site.index == 3:
            raise error("stop")

    with pytest.raises(error) as caught, attention_hook(unet, nothing, where="self"):
        with attention_hook(unet, fail, where=everywhere):
            predict(unet, "unet")
    assert F.scaled_dot_product_attention is TORCHS_OWN
    assert not any("forward" in module.__dict__ for module in unet.modules())
    assert torch.equal(predict(unet, "unet"), before)
    if error is ValueError:
        assert any(sites(unet)[3].name in note for note in caught.value.__notes__)


def test_attention_elsewhere_is_left_alone() -> None:
    """Inside a block, text encoders, other threads and unmatched sites call torch itself."""
    unet, seen, query = build("unet"), [], torch.randn(1, 2, 3, 4)

    def attend_elsewhere(call: AttentionCall) -> None:
        seen.append(call.site.kind)
        with ThreadPoolExecutor() as pool:
            pool.submit(F.scaled_dot_product_attention, query, query, query).result()
            pool.submit(predict, build("dit"), "dit").result()
        F.scaled_dot_product_attention(query, query, query)

    with attention_hook(unet, attend_elsewhere, where=FIRST_SELF):
        F.scaled_dot_product_attention(query, query, query)
        predict(unet, "unet")
    assert seen == ["self"]


def test_torch_is_restored_in_any_order_of_closing() -> None:
    """Widgets run denoisers in threads, so blocks need not close in the order in which they were opened."""
    unet, dit = build("unet"), build("dit")
    first, second = attention_hook(unet, nothing, where="self"), attention_hook(dit, nothing, where="self")
    first.__enter__(), second.__enter__()
    assert F.scaled_dot_product_attention is not TORCHS_OWN
    first.__exit__(None, None, None)
    assert torch.equal(predict(dit, "dit"), predict(build("dit"), "dit"))
    second.__exit__(None, None, None)
    assert F.scaled_dot_product_attention is TORCHS_OWN


def test_a_replaced_kernel_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users put faster kernels in place of torch's function; a hook must call theirs and put it back."""
    used = []

    def kernel(*args: Any, **kwargs: Any) -> Tensor:
        used.append(1)
        return torch.ops.aten.scaled_dot_product_attention(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", kernel)
    unet = build("unet")
    calls = calls_of(unet, "unet")
    assert len(used) == len(calls) == len(sites(unet))
    assert F.scaled_dot_product_attention is kernel


# Nesting, adapters, gradients


def test_the_inner_hook_comes_first() -> None:
    """Methods are stacked by nesting; the order decides who sees whose edits."""
    unet, order = build("unet"), []

    def inner(call: AttentionCall) -> None:
        order.append("inner")
        call.key = torch.cat([call.key, call.key], dim=2)
        call.value = torch.cat([call.value, call.value], dim=2)
        call.places["again"] = slice(TEXT_TOKENS, 2 * TEXT_TOKENS)

    def outer(call: AttentionCall) -> None:
        order.append(("outer", call.key.shape[2], call.places))

    with attention_hook(unet, outer, where=FIRST_CROSS), attention_hook(unet, inner, where=FIRST_CROSS):
        predict(unet, "unet")
    places = {"text": slice(0, TEXT_TOKENS), "again": slice(TEXT_TOKENS, 2 * TEXT_TOKENS)}
    assert order == ["inner", ("outer", 2 * TEXT_TOKENS, places)]


def test_nested_blocks_close_one_by_one() -> None:
    """Closing the inner block must leave the outer hook in place, and closing both the bare model."""
    unet = build("unet")
    bare = predict(unet, "unet")

    def half(call: AttentionCall) -> None:
        call.value = call.value / 2

    with attention_hook(unet, half, where="self"):
        once = predict(unet, "unet")
        with attention_hook(unet, half, where="self"):
            twice = predict(unet, "unet")
        assert torch.equal(predict(unet, "unet"), once)
    assert torch.equal(predict(unet, "unet"), bare)
    assert len({float(output.sum()) for output in (bare, once, twice)}) == 3


def test_an_inner_hook_that_does_not_attend_hides_the_site_from_the_outer() -> None:
    """The outer hook would otherwise be skipped without a word; the error tells how to nest them."""
    unet = build("unet")
    with attention_hook(unet, nothing, where="self"):
        with attention_hook(unet, lambda call: call.weights() @ call.value, where="self"):
            with pytest.raises(RuntimeError, match=f"{FIRST_SELF}.*Nest the blocks the other way"):
                predict(unet, "unet")


def test_lora_stays_active_under_a_hook() -> None:
    """Hooks that replace processors are known to lose or break LoRA."""
    unet = build("unet")
    bare = calls_of(unet, "unet", FIRST_CROSS)[0]
    torch.manual_seed(3)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    before = predict(unet, "unet")
    with attention_hook(unet, nothing, where=everywhere):
        assert torch.equal(predict(unet, "unet"), before)
    tuned = calls_of(unet, "unet", FIRST_CROSS)[0]
    assert not torch.allclose(tuned.key, bare.key) and torch.equal(tuned.value, bare.value)
    assert unet.active_adapters() == ["default"]


def test_ip_adapter_calls_tell_which_prompt_they_are_for() -> None:
    """With IP-Adapter a cross site attends several times; an edit meant for the words must find the words."""
    unet = build("unet")
    prompts = load_ip_adapter(unet, adapters=2)
    before = predict(unet, "unet", **prompts)
    with attention_hook(unet, nothing, where=everywhere):
        assert torch.equal(predict(unet, "unet", **prompts), before)
    calls = calls_of(unet, "unet", FIRST_CROSS, **prompts)
    assert [call.image_prompt for call in calls] == [None, 0, 1]
    assert [call.key.shape[2] for call in calls] == [TEXT_TOKENS, 4, 4]
    prompts_alone = {"image_prompt": slice(0, 4)}
    assert [call.places for call in calls] == [{"text": slice(0, TEXT_TOKENS)}, prompts_alone, prompts_alone]
    assert [call.image_prompt for call in calls_of(unet, "unet", FIRST_SELF, **prompts)] == [None]

    def mute_image_prompts(call: AttentionCall) -> Tensor | None:
        return None if call.image_prompt is None else torch.zeros_like(call.query)

    with attention_hook(unet, mute_image_prompts, where="cross"):
        muted = predict(unet, "unet", **prompts)
    assert torch.allclose(muted, predict(build("unet"), "unet"), atol=1e-5)


def test_image_prompts_are_numbered_alike_for_an_outer_hook() -> None:
    """An inner hook that attends twice must not shift the outer hook's numbering."""
    unet, numbers = build("unet"), []
    prompts = load_ip_adapter(unet)
    with attention_hook(unet, lambda call: numbers.append(call.image_prompt), where=FIRST_CROSS):
        with attention_hook(unet, lambda call: (call.attend() + call.attend()) / 2, where=FIRST_CROSS):
            predict(unet, "unet", **prompts)
    assert numbers == [None, None, 0, 0]


def test_attention_of_image_prompt_encoders_is_no_site() -> None:
    """IP-Adapter Plus brings attention of its own that reads image features, not latents."""
    unet = build("unet")
    plain = sites(unet)
    encoder = IPAdapterPlusImageProjection(8, output_dims=6, hidden_dims=8, depth=1, dim_head=4, heads=2)
    unet.encoder_hid_proj = MultiIPAdapterImageProjection([encoder])
    assert sites(unet) == plain


def test_ip_adapter_in_joint_attention() -> None:
    """SD3 lets the picture attend to itself and the image prompt at once, FLUX to the image prompt alone."""
    prompt = torch.randn(2, 3, 8)
    sd3, name = build("sd3"), "transformer_blocks.1.attn"
    processor = SD3IPAdapterJointAttnProcessor2_0(8, 8, head_dim=4, timesteps_emb_dim=8)
    sd3.get_submodule(name).set_processor(processor)
    extra = {"joint_attention_kwargs": {"ip_hidden_states": prompt, "temb": torch.randn(2, 8)}}
    own, image = calls_of(sd3, "sd3", name, **extra)
    assert (own.image_prompt, own.places) == (None, {"image": slice(0, 16), "text": slice(16, 21)})
    assert (image.image_prompt, image.places) == (0, {"image": slice(0, 16), "image_prompt": slice(16, 19)})
    assert image.key.shape[2] == IMAGE_TOKENS + 3

    flux, name = build("flux"), "transformer_blocks.0.attn"
    flux.get_submodule(name).set_processor(FluxIPAdapterAttnProcessor(32, 8, num_tokens=(3,), scale=[1.0]))
    own, image = calls_of(flux, "flux", name, joint_attention_kwargs={"ip_hidden_states": [prompt]})
    assert (own.image_prompt, own.places["text"]) == (None, slice(0, TEXT_TOKENS))
    assert (image.image_prompt, image.places) == (0, {"image_prompt": slice(0, 3)})
    assert image.key.shape == (2, 2, 3, 16)


def test_gradients_flow_through_an_edited_call() -> None:
    """Methods optimise latents or a strength through attention; checked against a finite difference."""
    unet, given = build("unet").double(), inputs("unet")
    given = {name: value.double() if name != "timestep" else value for name, value in given.items()}

    def loss(strength: Tensor) -> Tensor:
        bias = strength * torch.arange(TEXT_TOKENS)
        with attention_hook(unet, lambda call: call.attend(bias=bias), where="cross"):
            return unet(**given).sample.square().sum()

    strength = torch.tensor(0.3, dtype=torch.double, requires_grad=True)
    loss(strength).backward()
    with torch.no_grad():
        slope = (loss(strength + 1e-4) - loss(strength - 1e-4)) / 2e-4
    assert slope.abs() > 1e-6
    assert torch.isclose(strength.grad, slope, rtol=1e-5)
    assert all(parameter.grad is not None for parameter in unet.get_submodule(FIRST_CROSS).parameters())


@pytest.mark.parametrize("name", ["unet", "sd3"])
def test_gradient_checkpointing_is_refused_where_it_would_be_wrong(name: str) -> None:
    """Its backward pass attends again after the block has closed: gradients of another function, silently."""
    denoiser = build(name)
    plain = predict(denoiser, name)
    denoiser.enable_gradient_checkpointing()
    with attention_hook(denoiser, nothing, where=everywhere):
        assert torch.equal(predict(denoiser, name), plain)
        with pytest.raises(RuntimeError, match="disable_gradient_checkpointing"):
            denoiser(**inputs(name))
        denoiser.disable_gradient_checkpointing()
        denoiser(**inputs(name)).sample.sum().backward()


# The call itself


def example(heads: int = 2, key_heads: int = 2, **options: Any) -> AttentionCall:
    rng = torch.Generator().manual_seed(4)
    query = torch.randn(2, heads, 6, 4, generator=rng)
    key, value = torch.randn(2, 2, key_heads, 6, 4, generator=rng)
    return AttentionCall(
        site=Site("attn", "self", 0), step=0, timestep=1.0, query=query, key=key, value=value,
        hidden_states=query, places={"image": slice(0, 6)}, **{"mask": None, **options},
    )


def a_mask() -> Tensor:
    return torch.rand(2, 1, 1, 6, generator=torch.Generator().manual_seed(5)) > 0.4


@pytest.mark.parametrize("options", [
    {}, {"mask": a_mask()}, {"mask": torch.zeros(a_mask().shape).masked_fill(~a_mask(), -1e4)},
    {"is_causal": True}, {"scale": 0.1}, {"heads": 4, "enable_gqa": True},
], ids=["plain", "boolean mask", "additive mask", "causal", "scale", "grouped heads"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_attend_and_weights_keep_all_options(options: dict[str, Any], with_bias: bool) -> None:
    """An option dropped on the way to the kernel changes results; the two computations must agree on all."""
    call = example(**options)
    bias = torch.linspace(-1, 1, 6) if with_bias else None
    weights = call.weights(bias=bias)
    values = call.value.repeat_interleave(call.query.shape[1] // call.value.shape[1], dim=1)
    assert weights.dtype == torch.float32 and weights.shape == (2, call.query.shape[1], 6, 6)
    assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)
    assert torch.allclose(weights @ values, call.attend(bias=bias), atol=1e-5)
    if options or with_bias:
        plain = example(**{k: v for k, v in options.items() if k in ("heads", "enable_gqa")})
        assert not torch.allclose(weights, plain.weights()) or "heads" in options


def test_bias_multiplies_weights_before_normalisation() -> None:
    """exp(bias) is how many times a key counts: the meaning of StyleAligned's shared score shift."""
    call = example()
    bias = torch.zeros(6)
    bias[3] = math.log(2)
    key, value = (torch.cat([tensor, tensor[:, :, 3:4]], dim=2) for tensor in (call.key, call.value))
    assert torch.allclose(call.attend(bias=bias), call.attend(key=key, value=value), atol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (6, 6), (1, 1, 6), (2, 1, 1, 6), (2, 2, 6, 6), ()])
def test_bias_broadcasts(shape: tuple[int, ...]) -> None:
    """The kernel itself refuses some shapes that broadcast, such as one number per key."""
    call = example()
    bias = torch.randn(shape)
    expected = (call.query @ call.key.mT / 2 + bias).softmax(-1) @ call.value
    assert torch.allclose(call.attend(bias=bias), expected, atol=1e-5)


def test_dropout_reaches_the_kernel() -> None:
    """A no-op hook on a model in training must keep its dropout."""
    assert torch.equal(example(dropout_p=1.0).attend(), torch.zeros(2, 2, 6, 4))


def test_a_query_without_any_key_has_weights_zero() -> None:
    """Softmax over nothing is nan; the kernel gives zeros, and the weights must say the same."""
    call = example(mask=torch.zeros(2, 1, 6, 6, dtype=torch.bool).index_fill(2, torch.tensor([1, 2]), True))
    assert torch.equal(call.weights()[:, :, 0], torch.zeros(2, 2, 6))
    assert torch.allclose(call.weights() @ call.value, call.attend(), atol=1e-5)


def test_a_mask_that_does_not_cover_added_keys() -> None:
    """Hooks that share keys forget the mask; torch's own message names neither site nor remedy."""
    call = example(mask=a_mask())
    longer = torch.cat([call.key, call.key], dim=2)
    with pytest.raises(ValueError, match=r"\(2, 1, 1, 6\) covers 6 key tokens.*\(2, 2, 12, 4\) has 12"):
        call.attend(key=longer, value=longer)


def test_a_boolean_bias_is_refused() -> None:
    """Added to the logits, True would be 1 and not "may attend"."""
    with pytest.raises(TypeError, match="call.mask"):
        example().attend(bias=torch.ones(6, dtype=torch.bool))


def test_the_prompt_mask_of_the_model_is_kept() -> None:
    """PixArt masks padding tokens; a hook must neither lose the mask nor show them as attended."""
    mask = torch.ones(2, TEXT_TOKENS)
    mask[:, 3:] = 0
    for call in calls_of(build("pixart"), "pixart", "cross", encoder_attention_mask=mask):
        weights = call.weights()
        assert weights[..., 3:].max() == 0 and weights[..., :3].min() > 0


# The record


def test_record_keeps_weights_by_site_and_step() -> None:
    """The stored maps are what every attention picture in the notebooks is drawn from."""
    unet = build("unet")
    plain = predict(unet, "unet")
    with record_attention(unet, where="cross", steps=[0, 2], per_head=True, dtype=torch.float32) as record:
        for timestep in (800, 500, 200):
            predict(unet, "unet", timestep=timestep)
    assert torch.equal(predict(unet, "unet", timestep=500), plain)
    assert record.steps == [0, 2]
    assert record.maps(FIRST_CROSS).shape == (2, 2, 2, 16, TEXT_TOKENS)
    call = calls_of(unet, "unet", FIRST_CROSS, timestep=200)[0]
    assert torch.equal(record.maps(record.sites[0])[1], call.weights())


def test_record_averages_over_heads_to_save_memory() -> None:
    """All heads of all sites and steps do not fit; the mean must be the mean of what would have been kept."""
    unet = build("unet")
    with record_attention(unet, where="self", per_head=True) as full:
        with record_attention(unet, where="self") as short:
            predict(unet, "unet")
    assert short.maps(FIRST_SELF).shape == (1, 2, 1, 16, 16)
    assert torch.allclose(short.maps(FIRST_SELF), full.maps(FIRST_SELF).mean(dim=2, keepdim=True), atol=1e-3)


def test_record_mean_over_sites_of_one_size() -> None:
    """Maps of a 4x4 and an 8x8 layer have no common mean; it must be asked for by size, and be a mean."""
    unet = build("unet")
    with record_attention(unet, where="cross", dtype=torch.float32) as record:
        predict(unet, "unet")
        predict(unet, "unet", timestep=7)
    mean = record.mean(tokens=16)
    assert mean.shape == (2, 16, TEXT_TOKENS)
    assert torch.allclose(mean.sum(-1), torch.ones(()), atol=1e-5)
    over = [site for site in record.sites if not site.name.startswith("mid")]
    by_hand = torch.stack([record.maps(site)[:, :, 0] for site in over]).mean(dim=(0, 1))
    assert torch.allclose(mean, by_hand, atol=1e-6) and torch.allclose(record.mean(over), by_hand, atol=1e-6)
    assert torch.allclose(record.mean([FIRST_CROSS], steps=[1]), record.maps(FIRST_CROSS)[1, :, 0])
    with pytest.raises(ValueError, match=r"\(2, 16, 5\), \(2, 4, 5\)"):
        record.mean()


def test_record_says_why_it_is_empty() -> None:
    """An empty record has three causes, and each needs another remedy."""
    unet = build("unet")
    with record_attention(unet, where="cross", steps=[9]) as record:
        pass
    with pytest.raises(LookupError, match="did you run the pipeline inside"):
        record.mean()
    with record_attention(unet, where="cross", steps=[9]) as record:
        predict(unet, "unet")
    with pytest.raises(LookupError, match=r"steps \[9\] were asked for, \[0\] ran"):
        record.maps(FIRST_CROSS)
    with record_attention(unet, where="cross") as record:
        predict(unet, "unet")
    with pytest.raises(LookupError, match=FIRST_SELF):
        record.maps(FIRST_SELF)
    with pytest.raises(LookupError, match="tokens=999"):
        record.mean(tokens=999)


def test_record_joins_several_runs_of_one_step() -> None:
    """Some pipelines run the unconditional and the conditional prompt one after the other."""
    unet = build("unet")
    with record_attention(unet, where="cross") as record:
        predict(unet, "unet")
        predict(unet, "unet", encoder_hidden_states=torch.randn(2, TEXT_TOKENS, 6))
    assert record.maps(FIRST_CROSS).shape == (1, 4, 1, 16, TEXT_TOKENS)


def test_record_tells_text_from_image_prompts() -> None:
    """Words and image prompts have other numbers of tokens and must not be mixed into one mean."""
    unet = build("unet")
    prompts = load_ip_adapter(unet)
    with record_attention(unet, where="cross") as record:
        predict(unet, "unet", **prompts)
    assert record.maps(FIRST_CROSS).shape[-1] == TEXT_TOKENS
    assert record.mean(tokens=16, image_prompt=0).shape[-1] == 4


def test_record_does_not_mix_two_schedules() -> None:
    """Step 0 of an inversion and step 0 of the sampling after it are at opposite ends of the noise."""
    unet = build("unet")
    with record_attention(unet, where="cross"):
        predict(unet, "unet", timestep=1)
        predict(unet, "unet", timestep=401)
        with pytest.raises(ValueError, match="Step 0 of a second schedule.*timestep 201, in the first it was at 1"):
            predict(unet, "unet", timestep=201)


def test_record_needs_one_timestep() -> None:
    """Maps of a training batch have no step to be kept under."""
    unet = build("unet")
    with pytest.raises(ValueError, match="different timesteps"), record_attention(unet, where="cross"):
        predict(unet, "unet", timestep=torch.tensor([1, 2]))
