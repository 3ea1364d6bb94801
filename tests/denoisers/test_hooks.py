"""Hooks on module outputs and norms, on real diffusers models at tiny size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from studylib.denoisers.attention import attention_hook
from studylib.denoisers.hooks import norm_hook, output_hook


@pytest.fixture
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), cross_attention_dim=6,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()


@torch.no_grad()
def predict(unet: nn.Module) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    sample, prompt = torch.randn(3, 4, 8, 8, generator=rng), torch.randn(3, 5, 6, generator=rng)
    return unet(sample, 500, encoder_hidden_states=prompt).sample


def unwrapped(model: nn.Module) -> bool:
    return not any("forward" in module.__dict__ for module in model.modules())


def joined(norm: nn.Module, hidden_states: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
    """Normalise every picture together with the first of the batch, side by side along the height."""
    reference = hidden_states[:1].expand_as(hidden_states)
    both = torch.cat([hidden_states, reference], dim=-2)  # (batch, channels, 2 x height, width)
    return forward(both)[..., : hidden_states.shape[-2], :]


def test_output_hook_reads_and_replaces(unet: UNet2DConditionModel) -> None:
    """Reading must change nothing, and a replaced feature must reach the prediction."""
    before, seen = predict(unet), []
    with output_hook(unet.mid_block, seen.append):
        assert torch.equal(predict(unet), before)
    assert seen[0].shape == (3, 16, 4, 4)
    with output_hook(unet.mid_block, torch.zeros_like):
        muted = predict(unet)
    assert not torch.allclose(muted, before, atol=1e-3)
    assert torch.equal(predict(unet), before) and unwrapped(unet)


def test_output_hook_gives_a_tuple_where_the_module_does(unet: UNet2DConditionModel) -> None:
    """A down block returns (features, skip connections), and skips are what several papers edit."""
    before = predict(unet)

    def without_skips(output: tuple[Tensor, tuple[Tensor, ...]]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return output[0], tuple(torch.zeros_like(skip) for skip in output[1])

    with output_hook(unet.down_blocks[0], without_skips):
        assert not torch.equal(predict(unet), before)


def test_output_hook_refuses_another_shape(unet: UNet2DConditionModel) -> None:
    """Features of another size would broadcast or fail in a later layer that is not to blame."""
    with output_hook(unet.mid_block, lambda output: output[:1]):
        with pytest.raises(ValueError, match=r"UNetMidBlock2DCrossAttn.*\(1, 16, 4, 4\).*\(3, 16, 4, 4\)"):
            predict(unet)
    with output_hook(unet.mid_block, lambda output: 0):
        with pytest.raises(TypeError, match="Tensor, not a int"):
            predict(unet)
    with pytest.raises(TypeError, match="mid_block, not a str"), output_hook("mid_block", print):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_both_hooks_restore_after_an_exception(unet: UNet2DConditionModel, error: type[BaseException]) -> None:
    """An interrupted cell must leave the model as it was."""
    before = predict(unet)

    def fail(*_: Any) -> Tensor:
        raise error("stop")

    for hook in (lambda: output_hook(unet.mid_block, fail), lambda: norm_hook(unet, fail)):
        with pytest.raises(error), hook():
            predict(unet)
        assert unwrapped(unet) and torch.equal(predict(unet), before)


def test_norm_hook_that_only_forwards_changes_no_bit(unet: UNet2DConditionModel) -> None:
    """Off is identity; and every norm of the kind is reached, those inside transformer blocks as well."""
    before, called = predict(unet), []

    def plain(norm: nn.Module, hidden_states: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
        called.append(norm)
        return forward(hidden_states)

    with norm_hook(unet, plain) as names:
        assert torch.equal(predict(unet), before)
    norms = {name: norm for name, norm in unet.named_modules() if type(norm) is nn.GroupNorm}
    assert names == list(norms) and set(map(id, called)) == set(map(id, norms.values()))
    assert torch.equal(predict(unet), before) and unwrapped(unet)


def test_shared_group_norm_moves_the_targets_and_not_the_reference(unet: UNet2DConditionModel) -> None:
    """The norm's own function must take a larger map: this is how StyleAligned shares statistics."""
    before = predict(unet)
    with norm_hook(unet, joined):
        shared = predict(unet)
    assert torch.allclose(shared[0], before[0], atol=1e-4)
    assert (shared[1:] - before[1:]).abs().max() > 1e-2


def test_shared_layer_norm_is_no_change(unet: UNet2DConditionModel) -> None:
    """LayerNorm looks at one token at a time, so sharing it does nothing: the kind must select LayerNorm alone."""
    before = predict(unet)
    with norm_hook(unet, joined, kind=nn.LayerNorm) as names:
        assert torch.equal(predict(unet), before)
    assert names and all("transformer_blocks" in name for name in names)


def test_norm_hook_refuses_another_shape(unet: UNet2DConditionModel) -> None:
    """Forgetting to crop is the natural mistake; the message must name the norm and both shapes."""
    with norm_hook(unet, lambda norm, hidden_states, forward: forward(hidden_states)[:, :, :3]):
        with pytest.raises(ValueError, match=r"GroupNorm down_blocks.0\S+ .*\(3, 8, 3, 8\).*\(3, 8, 8, 8\)"):
            predict(unet)


def test_no_norm_of_the_kind_names_those_present() -> None:
    """Sharing GroupNorm in a transformer would otherwise silently do nothing: it has none."""
    pixart = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8, num_layers=1, sample_size=8,
        patch_size=2, cross_attention_dim=8, caption_channels=6, use_additional_conditions=False,
    )
    with pytest.raises(LookupError, match="PixArtTransformer2DModel has no .* GroupNorm.*LayerNorm"):
        with norm_hook(pixart, joined):
            pass


def test_conditional_norms_keep_their_condition(unet: UNet2DConditionModel) -> None:
    """Some norms take an embedding beside the features; the hook's forward must pass it on."""

    class Scaled(nn.GroupNorm):
        def forward(self, hidden_states: Tensor, scale: Tensor) -> Tensor:
            return super().forward(hidden_states) * scale

    block = nn.ModuleDict({"norm": Scaled(2, 4)})
    features = torch.randn(2, 4, 3, 3)
    plain = block["norm"](features, torch.tensor(2.0))
    with norm_hook(block, lambda norm, hidden_states, forward: forward(hidden_states)):
        assert torch.equal(block["norm"](features, torch.tensor(2.0)), plain)
        assert torch.equal(block["norm"](hidden_states=features, scale=torch.tensor(2.0)), plain)


def test_hooks_of_all_kinds_nest(unet: UNet2DConditionModel) -> None:
    """Methods edit norms, features and attention at once, and each block must undo its own part only."""
    before, order = predict(unet), []
    site = "mid_block.attentions.0.transformer_blocks.0.attn1"

    def note(word: str) -> Callable[[Any], None]:
        return lambda _: order.append(word)

    attention = unet.get_submodule(site)
    with output_hook(attention, note("first")), attention_hook(unet, note("call"), where=site):
        with output_hook(attention, note("second")), norm_hook(unet, joined):
            predict(unet)
            assert order == ["call", "first", "second"]
        assert torch.equal(predict(unet), before)
    assert unwrapped(unet) and torch.equal(predict(unet), before)
