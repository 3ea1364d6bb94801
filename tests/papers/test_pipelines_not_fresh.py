"""Methods on pipelines that others have used before: each works as on a fresh one, or says what is in the way.

A table of what is done by what was done before. An error names the state and a remedy, and the remedy is tried.
"""

from contextlib import contextmanager

import accelerate
import pytest
import tiny_pipelines
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from paper_checks import module_of
from small_trainings import TRAININGS, pictures, train

from studylib.denoisers.attention import record_attention
from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.hooks import feature_hook
from studylib.denoisers.sites import sites
from studylib.errors import StudyError
from studylib.learning.adapters import lora_adapter
from studylib.learning.weights import named_weights, swapped

dreambooth, hypernetworks, lora, style_aligned, textual_inversion = map(
    module_of, ("dreambooth", "hypernetworks", "lora", "style_aligned", "textual_inversion")
)


class KeptProcessor(torch.nn.Module):
    """What the StyleAligned authors' handler leaves when it is removed: a module with a processor of its own."""

    def __init__(self):
        super().__init__()
        self.processor = AttnProcessor2_0()

    def __call__(self, *args, **kwargs):
        return self.processor(*args, **kwargs)


def random_lora(pipe, seed=0):
    generator = torch.Generator().manual_seed(seed)
    factors = {
        name: (layer.A.data, 0.3 * torch.randn(layer.B.shape, generator=generator))
        for name, layer in lora.new_layers(pipe, lora.LoRAConfig(rank=2)).items()
    }
    return module_of("lora", "factors").Lora(factors, 1.0)


# States: each changes a pipeline, and may return what its remedy undoes it by.


def compiled(pipe, folder):
    pipe.unet.compile(backend="eager")
    pipe.text_encoder.compile(backend="eager")
    predict(pipe)  # the code is traced here, without any hook


def blocks_compiled(pipe, folder):
    pipe.unet.compile_repeated_blocks(backend="eager")
    predict(pipe)


def wrapped(pipe, folder):
    pipe.unet = torch.compile(pipe.unet, backend="eager")

    def undo():
        pipe.unet = pipe.unet._orig_mod

    return undo


def fused(pipe, folder):
    pipe.fuse_qkv_projections()
    return pipe.unfuse_qkv_projections


def unfused(pipe, folder):
    pipe.fuse_qkv_projections()
    pipe.unfuse_qkv_projections()


def sliced(pipe, folder):
    pipe.enable_attention_slicing()
    return pipe.disable_attention_slicing


def offloaded(pipe, folder):
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        accelerate.cpu_offload_with_hook(part, "cpu")
    return pipe.remove_all_hooks


def offloaded_one_by_one(pipe, folder):
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        accelerate.cpu_offload(part, "cpu")
    return pipe.remove_all_hooks


def with_adapter(pipe, folder):
    saved = module_of("lora", "factors").save_lora(random_lora(tiny_pipelines.sd(), seed=1), folder)
    pipe.load_lora_weights(saved.parent)
    return pipe.unload_lora_weights


def processors_left(pipe, folder):
    pipe.unet.set_attn_processor({name: KeptProcessor() for name in pipe.unet.attn_processors})


def in_half(pipe, folder):
    pipe.to(dtype=torch.bfloat16)
    return lambda: pipe.to(dtype=torch.float32)


def checkpointed(pipe, folder):
    pipe.unet.enable_gradient_checkpointing()
    pipe.unet.train()
    return pipe.unet.disable_gradient_checkpointing


STATES = [
    compiled, blocks_compiled, wrapped, fused, unfused, sliced, offloaded, offloaded_one_by_one, with_adapter,
    processors_left, in_half, checkpointed,
]  # fmt: skip
SAME = {compiled, blocks_compiled, unfused, fused, sliced, offloaded, offloaded_one_by_one, processors_left}


@torch.no_grad()
def predict(pipe):
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return Denoiser(pipe).predict(latents, 500, ["a c", "c"])


# Methods that act inside a block; what they act with is made on a fresh pipeline.


def tuned_weights(pipe):
    weights = named_weights(tiny_pipelines.sd(), ["unet", "text_encoder"])
    generator = torch.Generator().manual_seed(0)
    noisy = {name: w.detach() + 0.05 * torch.randn(w.shape, generator=generator) for name, w in weights.items()}
    return swapped(pipe, noisy)


def correction():
    config = hypernetworks.HypernetworkConfig(weight_init="xavier_normal")
    return hypernetworks.Hypernetwork.of(tiny_pipelines.sd().unet, config)


def folded_correction(pipe):
    fold = module_of("hypernetworks", "fold")
    return fold.folded(pipe, fold.fold(pipe, correction()))


@contextmanager
def strong_adapter(pipe):
    with lora_adapter(pipe.unet, rank=2) as adapter:
        for layer in adapter.layers.values():
            torch.nn.init.constant_(layer.lora_B["default"].weight, 0.5)
        yield


@contextmanager
def word(pipe):
    generator = torch.Generator().manual_seed(0)
    with textual_inversion.new_word(pipe, "<w>", torch.randn(1, tiny_pipelines.WIDTH, generator=generator)):
        encode = pipe.encode_prompt
        pipe.encode_prompt = lambda *args, prompt, **kwargs: encode(*args, prompt=["a <w>", "<w>"], **kwargs)
        try:
            yield
        finally:
            del pipe.encode_prompt


@contextmanager
def recorded(pipe):
    with record_attention(pipe.unet, where="cross") as record:
        yield record
    assert len(record.sites) == 7 and record.steps


ACTING = {
    "tuned weights": tuned_weights,
    "adapter": strong_adapter,
    "features": lambda pipe: feature_hook(pipe.unet, lambda call: 2 * call.output, where="mid_block"),
}
if lora:
    ACTING["LoRA beside"] = lambda pipe: lora.adapted(pipe, random_lora(tiny_pipelines.sd()))
    ACTING["LoRA merged"] = lambda pipe: lora.merged(pipe, random_lora(tiny_pipelines.sd()))
if hypernetworks:
    ACTING["hypernetwork"] = lambda pipe: hypernetworks.hypernetwork(pipe, correction())
    ACTING["folded hypernetwork"] = folded_correction
if textual_inversion:
    ACTING["word"] = word
if style_aligned:
    ACTING["StyleAligned"] = lambda pipe: style_aligned.style_aligned(
        pipe, style_aligned.StyleAlignedConfig(), set_size=2
    )
CHANGES_PROJECTIONS = {"tuned weights", "LoRA beside", "LoRA merged", "adapter", "hypernetwork", "folded hypernetwork"}
REFUSED = {  # state -> methods that cannot work on it; None: all of them
    wrapped: None,
    fused: CHANGES_PROJECTIONS,
    sliced: {"StyleAligned"},
    offloaded_one_by_one: {"tuned weights", "LoRA beside", "LoRA merged", "adapter", "folded hypernetwork"},
    with_adapter: {"adapter", "folded hypernetwork"},
}
NAMED = {  # what an error has to name: the state, and the remedy
    wrapped: "wrapped in a OptimizedModule.*_orig_mod", fused: "fused.*unfuse_qkv_projections",
    sliced: "slicing", offloaded_one_by_one: "offloaded.*remove_all_hooks", offloaded: "offloaded.*remove_all_hooks",
    with_adapter: "adapter.*unload_lora_weights", in_half: "not float32.*float()",
}  # fmt: skip


def effect(pipe, method):
    """What the method moves of the prediction, which afterwards is what it was to the bit."""
    before = predict(pipe)
    with ACTING[method](pipe):
        during = predict(pipe)
    assert torch.equal(predict(pipe), before)
    return during - before


@pytest.fixture(scope="module")
def on_fresh():
    return {method: effect(tiny_pipelines.sd(), method) for method in ACTING}


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_methods_act_on_it_or_say_why_not(state, on_fresh, tmp_path):
    """A hypernetwork on a compiled U-Net had no effect, without a word; one on fused projections was refused after
    they had been unfused."""
    pipe = tiny_pipelines.sd()
    undo = state(pipe, tmp_path)
    refused = REFUSED.get(state, set())
    for method, expected in on_fresh.items():
        if refused is None or method in refused:
            with pytest.raises((StudyError, RuntimeError), match=NAMED[state]):
                effect(pipe, method)
        else:
            found = effect(pipe, method)
            assert found.norm() > 0.1 * expected.norm(), method
            if state in SAME:
                torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4, msg=method)
    if refused != set():
        undo()
        for method in set(refused or ACTING) & set(ACTING):
            torch.testing.assert_close(effect(pipe, method), on_fresh[method], atol=1e-4, rtol=1e-4, msg=method)


UNTRAINABLE = {
    wrapped: None, offloaded: None, offloaded_one_by_one: None, fused: {"DreamBooth", "LoRA", "hypernetwork"},
    with_adapter: {"DreamBooth"}, in_half: {"DreamBooth"}, checkpointed: set(),
}  # fmt: skip
SHORT = {"DreamBooth": {}, "hypernetwork": {"max_train_steps": 1, "dropout": 0.0}}
TRAINED = {method: SHORT.get(method, {"max_train_steps": 1}) for method in TRAININGS}


def learned(pipe, method):
    """What one step or a few teach; the pipeline is left as it was, without gradients."""
    flags = [weight.requires_grad for weight in pipe.unet.parameters()]
    weights, *_ = train(method, pipe, pictures(0), changes=TRAINED[method])
    assert [weight.requires_grad for weight in pipe.unet.parameters()] == flags
    assert all(weight.grad is None for weight in pipe.unet.parameters())
    return weights


@pytest.fixture(scope="module")
def learned_on_fresh():
    return {method: learned(tiny_pipelines.sd(), method) for method in TRAINED}


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_methods_train_on_it_or_say_why_not(state, learned_on_fresh, tmp_path):
    """DreamBooth on a U-Net that was once fused stopped at layers without gradient; a LoRA beside a loaded one skipped
    its layers."""
    pipe = tiny_pipelines.sd()
    undo = state(pipe, tmp_path)
    refused = UNTRAINABLE.get(state, set())
    for method, expected in learned_on_fresh.items():
        if refused is None or method in refused:
            with pytest.raises((StudyError, ValueError), match=NAMED[state]):
                learned(pipe, method)
        else:
            found = learned(pipe, method)
            assert found.keys() == expected.keys(), method
            if state in SAME:
                for name, weight in expected.items():
                    torch.testing.assert_close(found[name], weight, atol=1e-3, rtol=1e-3, msg=f"{method} {name}")
    if refused != set():
        undo()
        for method in set(refused or TRAINED) & set(TRAINED):
            assert learned(pipe, method).keys() == learned_on_fresh[method].keys(), method


def test_processors_left_behind_are_no_sites():
    """The authors' handler, once removed, leaves modules that have a processor: twice as many sites were counted."""
    pipe = tiny_pipelines.sd()
    names = [site.name for site in sites(pipe.unet)]
    processors_left(pipe, None)
    assert [site.name for site in sites(pipe.unet)] == names


@pytest.mark.skipif(dreambooth is None, reason="DreamBooth was deleted")
def test_nothing_is_trained_in_inference_mode():
    """torch would say that inference tensors cannot be saved for backward."""
    pipe = tiny_pipelines.sd()
    with torch.inference_mode(), pytest.raises(StudyError, match=r"inference_mode.*torch.no_grad"):
        dreambooth.train(pipe, pictures(0), pictures(1), dreambooth.DreamBoothConfig())


@pytest.mark.skipif(style_aligned is None, reason="StyleAligned was deleted")
def test_compiled_code_runs_again_after_the_block():
    """The plain run lasts as long as the block: what a user has compiled stays compiled."""
    pipe, traced = tiny_pipelines.sd(), []

    def backend(graph, inputs):
        traced.append(graph)
        return graph.forward

    pipe.unet.time_embedding.compile(backend=backend)
    with style_aligned.style_aligned(pipe, style_aligned.StyleAlignedConfig(), set_size=2):
        predict(pipe)
    assert not traced
    predict(pipe)
    assert traced
