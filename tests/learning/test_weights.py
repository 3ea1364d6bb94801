"""Weights and modules put into a pipeline and taken out again: afterwards it is what it was, bit for bit."""

import copy

import pytest
import torch
from accelerate.hooks import CpuOffload, add_hook_to_module, remove_hook_from_module

from studylib.denoisers.denoiser import Denoiser
from studylib.errors import StudyError
from studylib.learning.weights import file_size, named_weights, replaced, restored, submodule, swapped, weight_of
from tests.tiny_pipelines import sd

LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def pipe():
    return sd()


def state(pipe):
    return copy.deepcopy({part: getattr(pipe, part).state_dict() for part in ("unet", "text_encoder")})


def same(one, other):
    return all(torch.equal(tensor, other[part][name]) for part, named in one.items() for name, tensor in named.items())


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_swapped_weights_come_back(pipe, error):
    """Also after an exception; adding and subtracting would round."""
    before, own = state(pipe), named_weights(pipe, ["unet", "text_encoder"])
    other = {name: weight.detach() + 0.1 for name, weight in own.items()}
    try:
        with swapped(pipe, other):
            assert all(torch.equal(weight, other[name]) for name, weight in own.items())
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert same(before, state(pipe)) and weight_of(pipe, f"{LAYER}.weight") is own[f"{LAYER}.weight"]


def test_what_is_trained_in_a_block_is_put_back(pipe):
    """`restored` around a training leaves the pipeline untouched."""
    before, own = state(pipe), named_weights(pipe, ["unet"])
    with restored(own), torch.no_grad():
        for weight in own.values():
            weight.mul_(3).add_(1)
        assert not same(before, state(pipe))
    assert same(before, state(pipe))


def test_replaced_modules_come_back_as_the_same_objects(pipe):
    """Nested blocks close one by one; whole parts may be replaced as well."""
    own, encoder = submodule(pipe, LAYER), pipe.text_encoder
    one, two = torch.nn.Identity(), torch.nn.Identity()
    with replaced(pipe, {LAYER: one, "text_encoder": two}):
        with replaced(pipe, {LAYER: two}):
            assert submodule(pipe, LAYER) is two
        assert submodule(pipe, LAYER) is one and pipe.text_encoder is two
        with pytest.raises(RuntimeError), replaced(pipe, {LAYER: two}):
            raise RuntimeError
        assert submodule(pipe, LAYER) is one
    assert submodule(pipe, LAYER) is own and pipe.text_encoder is encoder


def test_wrong_names_and_shapes_change_nothing(pipe):
    """They are found before the first weight is touched."""
    before = state(pipe)
    wrong = {"unet.conv_in.weight": torch.zeros(16, 4, 3, 3), "unet.conv_in.bias": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"unet.conv_in.bias has the shape \(16,\), not \(3,\)"), swapped(pipe, wrong):
        pass
    for name in ("unet.nothing.weight", "unet.conv_in.nothing", "vea.weight"):
        with pytest.raises(LookupError), swapped(pipe, {name: torch.zeros(1)}):
            pass
    with pytest.raises(LookupError, match="has no module 'unet.nothing'"), replaced(pipe, {"unet.nothing": None}):
        pass
    assert same(before, state(pipe))


def test_an_offloaded_pipeline_is_not_trained():
    """Its weights leave for the GPU while it runs, and what the optimiser holds stays behind."""
    pipe = sd()
    add_hook_to_module(pipe.unet, CpuOffload("cpu"))
    with pytest.raises(StudyError, match="offloaded .unet wait"):
        named_weights(pipe, ["unet", "text_encoder"])
    denoiser, latents = Denoiser(pipe), torch.zeros(1, 4, 8, 8)
    with torch.no_grad():
        prompt = denoiser.prompt(["cat"])
        denoiser.predict(latents, 5, prompt)
    with pytest.raises(StudyError, match="nothing can be trained through it"):
        denoiser.predict(latents, 5, prompt)
    pipe.unet.requires_grad_(False)
    denoiser.predict(latents.requires_grad_(), 5, prompt).sum().backward()  # a drag moves latents, and may
    with pytest.raises(StudyError, match="nothing can be trained through it"):
        denoiser.predict(latents, 5, denoiser.prompt(["cat"]))
    remove_hook_from_module(pipe.unet)
    assert named_weights(pipe, ["unet"])


def test_the_size_of_a_file_is_that_on_disk():
    """What the table of methods calls a file is what a reader would keep; nothing stays behind."""
    folders = []

    def save(folder):
        folders.append(folder)
        path = folder / "weights.bin"
        path.write_bytes(b"12345")
        return path

    assert file_size(save) == 5 and not folders[0].exists()
