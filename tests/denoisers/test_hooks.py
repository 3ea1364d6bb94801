"""Hooks on module outputs and norms, on real diffusers models at tiny size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from studylib.denoisers.attention import attention_hook
from studylib.denoisers.hooks import FeatureCall, NormCall, feature_hook, norm_hook, read_features, stop_after


@pytest.fixture
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), cross_attention_dim=6,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()


@torch.no_grad()
def predict(unet: nn.Module, timestep: int = 500) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    sample, prompt = torch.randn(3, 4, 8, 8, generator=rng), torch.randn(3, 5, 6, generator=rng)
    return unet(sample, timestep, encoder_hidden_states=prompt).sample


def unwrapped(model: nn.Module) -> bool:
    return not any("forward" in module.__dict__ for module in model.modules())


def joined(call: NormCall) -> Tensor:
    """Normalise every picture together with the first of the batch, side by side along the height."""
    reference = call.hidden_states[:1].expand_as(call.hidden_states)
    both = torch.cat([call.hidden_states, reference], dim=-2)  # (batch, channels, 2 x height, width)
    return call.forward(both)[..., : call.hidden_states.shape[-2], :]


def test_feature_hook_reads_and_replaces(unet: UNet2DConditionModel) -> None:
    """Reading must change nothing, and a replaced feature must reach the prediction."""
    before, seen = predict(unet), []
    with feature_hook(unet, seen.append, where="mid_block") as names:
        assert torch.equal(predict(unet), before) and names == ["mid_block"]
    assert seen[0].output.shape == (3, 16, 4, 4) and seen[0].module is unet.mid_block
    assert (seen[0].name, seen[0].step, seen[0].timestep) == ("mid_block", 0, 500.0)
    with feature_hook(unet, lambda call: torch.zeros_like(call.output), where="mid_block"):
        muted = predict(unet)
    assert not torch.allclose(muted, before, atol=1e-3)
    assert torch.equal(predict(unet), before) and unwrapped(unet)


def test_feature_and_norm_hooks_are_told_the_step(unet: UNet2DConditionModel) -> None:
    """The same clock as attention's, a second schedule included; a module on its own has no steps."""
    moments: dict[str, list] = {"feature": [], "norm": [], "attention": []}

    def norm(call: NormCall) -> Tensor:
        moments["norm"].append((call.step, call.timestep))
        return call.forward(call.hidden_states)

    with (
        feature_hook(unet, lambda call: moments["feature"].append((call.step, call.timestep)), where="mid_block"),
        norm_hook(unet, norm),
        attention_hook(unet, lambda call: moments["attention"].append((call.step, call.timestep)), where="cross"),
    ):
        for timestep in (801, 401, 801, 401):
            predict(unet, timestep)
    for found in moments.values():
        assert list(dict.fromkeys(found)) == [(0, 801.0), (1, 401.0)]
        assert found[: len(found) // 2] == found[len(found) // 2 :]
    alone = []
    with feature_hook(unet.mid_block.resnets[0], lambda call: alone.append(call.step), where="norm1"):
        predict(unet)
    assert alone == [None]


def test_feature_hook_gives_a_tuple_where_the_module_does(unet: UNet2DConditionModel) -> None:
    """A down block returns (features, skip connections), and skips are what several papers edit."""
    before = predict(unet)

    def without_skips(call: FeatureCall) -> tuple[Tensor, tuple[Tensor, ...]]:
        return call.output[0], tuple(torch.zeros_like(skip) for skip in call.output[1])

    with feature_hook(unet, without_skips, where="down_blocks.0"):
        assert not torch.equal(predict(unet), before)


def test_feature_hook_refuses_another_shape_and_an_unknown_name(unet: UNet2DConditionModel) -> None:
    """Features of another size would broadcast or fail in a later layer that is not to blame."""
    with feature_hook(unet, lambda call: call.output[:1], where="mid_block"):
        with pytest.raises(ValueError, match=r"UNetMidBlock2DCrossAttn.*\(1, 16, 4, 4\).*\(3, 16, 4, 4\)"):
            predict(unet)
    with feature_hook(unet, lambda call: 0, where="mid_block"):
        with pytest.raises(TypeError, match="Tensor, not a int"):
            predict(unet)
    for wrong, message in (("midblock", "Did you mean 'mid_block'"), ([], "names no module")):
        with pytest.raises(LookupError, match=message), feature_hook(unet, print, where=wrong):
            pass
    with pytest.raises(TypeError, match="not in a str"), feature_hook("unet", print, where="mid_block"):
        pass


def test_a_pass_stops_after_a_block(unet: UNet2DConditionModel) -> None:
    """What stands behind it is not computed; hooks that ran have run, and the model is as before, also when nested."""
    before, seen = predict(unet), []
    with feature_hook(unet, lambda call: seen.append(call.name), where=["down_blocks.1", "mid_block", "up_blocks.0"]):
        with stop_after(unet, "mid_block"):
            predict(unet)
            seen.append("not reached")
        assert seen == ["down_blocks.1", "mid_block"]
        with stop_after(unet, "up_blocks.1"), stop_after(unet, "down_blocks.1"):
            predict(unet)
        assert seen[2:] == ["down_blocks.1"]
    with stop_after(unet, "conv_in"), attention_hook(unet, print, where="self"):
        predict(unet)
    assert unwrapped(unet) and torch.equal(predict(unet), before)
    with pytest.raises(ValueError, match="mine"), stop_after(unet, "mid_block"):
        raise ValueError("mine")
    with pytest.raises(LookupError, match="has no module 'mid'"), stop_after(unet, "mid"):
        pass


def test_features_are_read_with_gradients(unet: UNet2DConditionModel) -> None:
    """Drags and guidance by features need their gradient to the latents, and only the passes up to there."""
    sample, text = torch.randn(1, 4, 8, 8, requires_grad=True), torch.randn(1, 5, 6)
    names, ran = ["down_blocks.1", "mid_block"], []
    with feature_hook(unet, lambda call: ran.append(call.name), where="up_blocks.0"):
        found = read_features(unet, lambda: unet(sample, 500, text), where=names)
        assert list(found) == names and not ran
        whole = read_features(unet, lambda: unet(sample, 500, text), where=names, stop=False)
    assert ran == ["up_blocks.0"] and torch.equal(whole["mid_block"], found["mid_block"])
    found["mid_block"].square().sum().backward()
    assert sample.grad.abs().max() > 0 and unwrapped(unet)
    with pytest.raises(LookupError, match="up_blocks.0 did not run"):
        read_features(unet, lambda: None, where="up_blocks.0")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_both_hooks_restore_after_an_exception(unet: UNet2DConditionModel, error: type[BaseException]) -> None:
    """An interrupted cell must leave the model as it was."""
    before = predict(unet)

    def fail(*_: Any) -> Tensor:
        raise error("stop")

    for hook in (lambda: feature_hook(unet, fail, where="mid_block"), lambda: norm_hook(unet, fail)):
        with pytest.raises(error), hook():
            predict(unet)
        assert unwrapped(unet) and torch.equal(predict(unet), before)


def test_norm_hook_that_only_forwards_changes_no_bit(unet: UNet2DConditionModel) -> None:
    """Off is identity; and every norm of the kind is reached, those inside transformer blocks as well."""
    before, called = predict(unet), []

    def plain(call: NormCall) -> Tensor:
        called.append(call.norm)
        return call.forward(call.hidden_states)

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
    with norm_hook(unet, lambda call: call.forward(call.hidden_states)[:, :, :3]):
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
    with norm_hook(block, lambda call: call.forward(call.hidden_states)):
        assert torch.equal(block["norm"](features, torch.tensor(2.0)), plain)
        assert torch.equal(block["norm"](hidden_states=features, scale=torch.tensor(2.0)), plain)


def test_hooks_of_all_kinds_nest(unet: UNet2DConditionModel) -> None:
    """Methods edit norms, features and attention at once, and each block must undo its own part only."""
    before, order = predict(unet), []
    site = "mid_block.attentions.0.transformer_blocks.0.attn1"

    def note(word: str) -> Callable[[Any], None]:
        return lambda _: order.append(word)

    with feature_hook(unet, note("first"), where=site), attention_hook(unet, note("call"), where=site):
        with feature_hook(unet, note("second"), where=site), norm_hook(unet, joined):
            predict(unet)
            assert order == ["call", "first", "second"]
        assert torch.equal(predict(unet), before)
    assert unwrapped(unet) and torch.equal(predict(unet), before)
