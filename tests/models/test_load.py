"""Loading models: from folders, the tiny world's borrowed parts, and one-line errors that say what to do."""

from __future__ import annotations

import json
import shutil
import time
import warnings

import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, EulerDiscreteScheduler
from huggingface_hub import constants
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTextModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from studylib.measuring.encoders import Encoders
from studylib.models import files, hub
from studylib.models.files import ModelError
from studylib.models.load import describe, load, load_clip, load_dino, load_network, needs_offload
from studylib.models.table import ENCODERS, MODELS, NETWORKS
from tests import tiny_pipelines as tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A whole pipeline as save_pretrained writes it."""
    folder = tmp_path_factory.mktemp("saved") / "pipeline"
    tiny.sd().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the saved pipeline that a test may damage."""
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.fixture
def world(saved, tmp_path, monkeypatch):
    """A tiny world in the shipped layout: sd without VAE and text encoder, those beside it, in fp16."""
    sd = shutil.copytree(saved, tmp_path / "weights" / "sd")
    for part in ("vae", "text_encoder"):
        shutil.rmtree(sd / part)
    text = tiny.text_config().to_dict()
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))
    clip.half().save_pretrained(tmp_path / "weights" / "clip")
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16)
    CLIPProcessor(pictures, tiny.tokenizer()).save_pretrained(tmp_path / "weights" / "clip")
    tiny.vae().half().save_pretrained(tmp_path / "weights" / "vae")
    dino = ViTModel(ViTConfig(**VISION))
    dino.half().save_pretrained(tmp_path / "weights" / "dino")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "weights" / "dino")
    monkeypatch.setattr(files, "WEIGHTS", tmp_path / "weights")
    for loader in (load_clip, load_dino):
        loader.cache_clear()
    yield tmp_path / "weights"
    for loader in (load_clip, load_dino):
        loader.cache_clear()


VISION = {
    "hidden_size": 16, "intermediate_size": 20, "num_attention_heads": 2, "num_hidden_layers": 1,
    "image_size": 16, "patch_size": 8,
}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and an empty cache, whatever the machine has."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 500
    return text


def test_a_folder_draws_what_the_saved_pipeline_draws(saved):
    """Loading must not change a single weight or setting that matters to the picture."""
    arguments = {"num_inference_steps": 2, "latents": torch.ones(1, 4, 8, 8), "output_type": "latent"}
    loaded = load(saved, device="cpu")
    assert torch.equal(loaded("a cat", **arguments).images, tiny.sd()("a cat", **arguments).images)
    assert not any(p.requires_grad for p in loaded.unet.parameters()) and not loaded.unet.training
    assert loaded.safety_checker is None and loaded._progress_bar_config["disable"]


def test_another_sampler_is_replaced_by_ddim_with_the_same_schedule(folder):
    """SDXL comes with Euler; these studies invert DDIM, on the checkpoint's own noise schedule."""
    betas = {"beta_start": 0.001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
    scheduler = EulerDiscreteScheduler(**betas, steps_offset=1)
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"][1] = "EulerDiscreteScheduler"
    (folder / "model_index.json").write_text(json.dumps(index))
    loaded = load(folder).scheduler
    assert isinstance(loaded, DDIMScheduler) and not loaded.config.clip_sample
    torch.testing.assert_close(loaded.alphas_cumprod, scheduler.alphas_cumprod)


def test_tiny_borrows_its_text_encoder_and_vae(world, capfd):
    """Weights ship once: sd takes CLIP's text half and the VAE, every weight of them, in float32."""
    pipe = load("tiny", device="cpu")
    shipped = CLIPModel.from_pretrained(world / "clip", dtype=torch.float32).text_model.state_dict()
    loaded = pipe.text_encoder.state_dict()
    assert type(pipe.text_encoder) is CLIPTextModel
    assert set(loaded) == set(shipped)
    assert all(torch.equal(loaded[name], shipped[name]) for name in shipped)
    assert torch.equal(pipe.vae.encoder.conv_in.weight.half(), tiny.vae().half().encoder.conv_in.weight)
    parts = (pipe.unet, pipe.vae, pipe.text_encoder)
    assert {weight.dtype for part in parts for weight in part.parameters()} == {torch.float32}
    assert pipe("a cat", num_inference_steps=1).images[0].size == (16, 16)


def test_loading_is_quiet(world, capfd):
    """A notebook shows pictures, not loading bars and tables of weights that were not needed."""
    load("tiny", device="cpu")
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        load("tiny", device="cpu")
    assert capfd.readouterr().err == ""


def test_a_text_encoder_that_lacks_weights_is_refused(world):
    """The library fills missing weights with random numbers and goes on; the pictures would be nonsense."""
    from safetensors.torch import load_file, save_file

    file = world / "clip" / "model.safetensors"
    weights = load_file(file)
    del weights["text_model.final_layer_norm.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights of CLIPTextModel.*final_layer_norm"):
        load("tiny")


def test_describe_names_source_device_dtype_and_size(world, saved):
    """The line under `load` is what a reader repeats a result from."""
    line = describe(load("tiny", device="cpu"))
    parts = (tiny.unet(), tiny.vae(), CLIPTextModel(tiny.text_config()))
    count = sum(p.numel() for part in parts for p in part.parameters())
    assert line.startswith("tiny @ ") and f"{count / 1e6:.1f} M parameters" in line
    assert "StableDiffusionPipeline | cpu | float32" in line
    assert describe(load(saved, device="cpu")).startswith(f"{saved} | ")
    assert describe(tiny.sd()).startswith("built in memory | ")


def test_describe_changes_with_the_weights(world):
    """Two trainings of the tiny world must not look the same in a record."""
    before = describe(load("tiny"))
    tiny.unet(seed=1).save_pretrained(world / "sd" / "unet")
    assert describe(load("tiny")) != before


def test_half_precision_on_request(saved):
    """`dtype` must reach every part."""
    assert "bfloat16 |" in describe(load(saved, dtype=torch.bfloat16, device="cpu"))


def test_encoders_load_in_eval_mode_and_once(world):
    """Metrics call the loaders for every batch: the second call must cost nothing."""
    clip, processor = load_clip()
    assert not clip.training and clip.dtype == torch.float32
    assert processor.tokenizer("a cat").input_ids == tiny.tokenizer()("a cat").input_ids
    dino, pictures = load_dino()
    assert type(dino) is ViTModel and not dino.training
    assert pictures([tiny_picture()], return_tensors="pt")["pixel_values"].shape == (1, 3, 16, 16)
    assert load_clip() is load_clip() and load_dino() is load_dino()
    same, _ = load_clip(str(world / "clip"))
    assert torch.equal(same.logit_scale, clip.logit_scale)


def tiny_picture():
    from PIL import Image

    return Image.new("RGB", (20, 20), "teal")


def test_cuda_asked_and_absent():
    """A run sent to the wrong machine must stop at once and say what there is."""
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ModelError, match="torch sees only: .*cpu") as error:
        load("tiny", device="cuda")
    assert "cuda" in one_line(error)
    with pytest.raises(ModelError, match="no device"):
        load("tiny", device="gpu")


def test_offload_when_the_model_is_larger_than_the_free_memory():
    """A 12 GiB card draws FLUX part by part; a folder's size is not known and stays whole."""
    assert needs_offload(MODELS["flux-dev"], 12.0)
    assert not needs_offload(MODELS["sd15"], 12.0)
    assert not needs_offload(None, 0.1)


def test_a_name_that_is_neither_model_nor_folder():
    """A misspelt name must list the names and the nearest one."""
    with pytest.raises(ModelError, match="Did you mean sdxl") as error:
        load("sdlx")
    assert all(name in one_line(error) for name in MODELS)


def test_a_folder_that_is_no_pipeline_is_listed(tmp_path):
    """Often the parent folder was given: what lies in it tells."""
    (tmp_path / "checkpoint-500").mkdir()
    with pytest.raises(ModelError, match=r"no model_index.json and holds checkpoint-500") as error:
        load(tmp_path)
    assert "save_pretrained" in one_line(error)


@pytest.mark.parametrize("damage", ["cut", "emptied", "scrambled"])
def test_truncated_weights_name_the_file(folder, damage):
    """A download that broke off must not end in a stack of library frames."""
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    scrambled = b"\x10" + b"\0" * 7 + whole[100:]
    file.write_bytes({"cut": whole[:-100], "emptied": b"", "scrambled": scrambled}[damage])
    with pytest.raises(ModelError, match="diffusion_pytorch_model.safetensors") as error:
        load(folder)
    assert "download it again" in one_line(error)


def test_missing_parts_are_named(folder, world):
    """Without its weights, or its whole folder, a part must be named; pickled weights do not count."""
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match="unet has no safetensors; it holds .*bin"):
        load(folder)
    shutil.rmtree(folder / "unet")
    with pytest.raises(ModelError, match="unet is missing"):
        load(folder)
    shutil.rmtree(world / "vae")
    with pytest.raises(ModelError, match="vae is missing"):
        load("tiny")


@pytest.mark.parametrize("entry", [("_class_name", "EvilPipeline"), ("unet", ["evil", "EvilUNet"])])
def test_code_in_a_checkpoint_is_not_run(folder, entry):
    """A folder from elsewhere may bring Python files: they must never be imported."""
    ran = folder.parent / "ran"
    for place in (folder / "EvilPipeline.py", folder / "pipeline.py", folder / "unet" / "evil.py"):
        place.write_text(f"open({str(ran)!r}, 'w')\n")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | dict([entry])))
    with pytest.raises(ModelError, match="(?i)evil"):
        load(folder)
    assert not ran.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"unet": []}', '{"_class_name": null}'])
def test_a_damaged_index_is_refused_in_one_line(folder, text):
    """Any text may stand in the file; none may end in a library's stack."""
    (folder / "model_index.json").write_text(text)
    with pytest.raises(ModelError) as error:
        load(folder)
    one_line(error)


def test_hub_models_offline_fail_within_seconds(offline):
    """Without network the answer comes at once: what is missing, where its licence is, what needs none."""
    start = time.perf_counter()
    with pytest.raises(ModelError) as error:
        load("sd15", device="cpu")
    text = one_line(error)
    assert MODELS["sd15"].id in text and 'model="tiny"' in text
    with pytest.raises(ModelError) as error:
        load("flux-dev", device="cpu")
    text = one_line(error)
    assert "https://huggingface.co/black-forest-labs/FLUX.1-dev" in text and "HF_TOKEN" in text
    with pytest.raises(ModelError, match=ENCODERS["dino"]["ViT-S/16"]):
        load_dino("ViT-S/16")
    assert time.perf_counter() - start < 20


def test_every_row_of_the_table_names_a_pipeline():
    """A misspelt class would only show on a machine with a GPU and a network."""
    import diffusers

    for card in MODELS.values():
        assert hasattr(diffusers, card.pipeline)
        assert card.licence and card.revision and card.memory_gib > 0
        assert card.shipped or "/" in card.id


def test_a_controlnet_joins_as_a_part(saved, tmp_path):
    """Papers that add a network must not change the loader: the sister class of diffusers is taken, all weights of the
    base stay, and at its start (zero convolutions) the picture is the base's."""
    base = load(saved, device="cpu")
    net = ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(4, 8))
    net.save_pretrained(tmp_path / "net")
    picture = {"num_inference_steps": 2, "latents": torch.ones(1, 4, 8, 8), "output_type": "latent"}
    side = 8 * base.vae_scale_factor
    for part in (net, tmp_path / "net", str(tmp_path / "net")):
        pipe = load(saved, device="cpu", parts={"controlnet": part})
        assert type(pipe).__name__ == "StableDiffusionControlNetPipeline"
        drawn = pipe("a cat", image=torch.zeros(1, 3, side, side), **picture).images
        torch.testing.assert_close(drawn, base("a cat", **picture).images, atol=1e-5, rtol=1e-5)


def test_parts_that_a_pipeline_cannot_have_are_named(saved, tmp_path):
    """A typing error in a part, or a folder that holds none, is said before anything is drawn."""
    with pytest.raises(ModelError, match="has no part transformer.*It has: vae, text_encoder"):
        load(saved, device="cpu", parts={"transformer": torch.nn.Linear(1, 1)})
    with pytest.raises(ModelError, match="'controlnet' is no folder of a network: nowhere"):
        load(saved, device="cpu", parts={"controlnet": "nowhere"})


@pytest.mark.parametrize("name", NETWORKS)
def test_shipped_networks_load_by_name(name):
    """Networks that are no pipeline have one loader; a wrong name lists the right ones."""
    network = load_network(name)
    assert not network.training and not any(weight.requires_grad for weight in network.parameters())
    assert load_network(name) is network
    with pytest.raises(ModelError, match="Did you mean judge.*judge, style, face"):
        load_network("jugde")


def test_each_paper_measures_with_its_own_encoders():
    """DreamBooth measured with DINO ViT-S/16 and CLIP ViT-B/32, StyleAligned with ViT-B/8: both must be askable."""
    hub = Encoders.named("hub", clip="ViT-B/32", dino="ViT-S/16")
    assert (hub.clip, hub.dino) == ("openai/clip-vit-base-patch32", "facebook/dino-vits16")
    assert Encoders.named("hub").dino == "facebook/dino-vitb8" and Encoders.named("tiny") == Encoders()


def test_quiet_loading_restores_the_libraries(world):
    """A user's own logging level must survive a load, also one that fails."""
    from diffusers.utils import logging as library

    before = library.get_verbosity(), library.is_progress_bar_enabled()
    with pytest.raises(KeyError), hub.quiet_loading():
        raise KeyError
    assert (library.get_verbosity(), library.is_progress_bar_enabled()) == before
