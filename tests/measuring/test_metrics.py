"""Measures: each on pictures or tiny random encoders for which the right number is known."""

import math

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from studylib.measuring import metrics
from tests import tiny_pipelines

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
TOWER = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def picture(colour: str, size: int = 128) -> Image.Image:
    return Image.new("RGB", (size, size), colour)


@pytest.fixture(scope="module")
def dino():
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(**TOWER, image_size=32, patch_size=16), add_pooling_layer=False)
    return model.eval(), ViTImageProcessor(size={"height": 32, "width": 32})


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    text = TOWER | {"vocab_size": 514}
    text |= {"max_position_embeddings": 16, "bos_token_id": 512, "eos_token_id": 513}
    vision = TOWER | {"image_size": 32, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return model, CLIPProcessor(processor, tiny_pipelines.tokenizer())


class ColourJudge(nn.Module):
    """A judge that is right by construction: it compares a picture's mean colour with red, green and blue."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = {"noun": ["box", "cat", "fish"], "style": ["flat", "neon", "sketch"]}
        self.colours = nn.Parameter(torch.tensor(list(COLOURS.values())).float() / 127.5 - 1)

    def forward(self, pixels):
        assert pixels.shape[1:] == (3, 128, 128) and pixels.abs().max() <= 1
        logits = -5 * torch.cdist(pixels.mean(dim=(2, 3)), self.colours)  # (N, 3)
        return {"noun": logits, "style": logits.roll(1, dims=1)}


def test_set_consistency_is_the_mean_over_pairs(dino):
    """The diagonal of ones, if it slipped in, would make every set look consistent."""
    images = [picture("red"), picture("blue"), picture("yellow")]
    matrix = metrics.pairwise_similarity(images, dino)
    assert torch.allclose(matrix.diagonal(), torch.ones(3)) and torch.allclose(matrix, matrix.T)
    expected = (matrix[0, 1] + matrix[0, 2] + matrix[1, 2]).item() / 3
    assert metrics.set_consistency(images, dino) == pytest.approx(expected)
    assert metrics.diversity(images, dino) == pytest.approx(1 - expected)
    assert metrics.set_consistency([images[0]] * 3, dino) == pytest.approx(1.0)
    assert expected < 0.9999


def test_features_do_not_depend_on_the_batch(dino, monkeypatch):
    """Sets larger than one batch must be joined in order and measured like small ones."""
    from studylib.measuring import encoders

    images = [picture(colour) for colour in ("red", "blue", "yellow", "lime", "white")]
    together = metrics.image_features(images, dino)
    monkeypatch.setattr(encoders, "BATCH", 2)
    assert torch.allclose(metrics.image_features(images, dino), together, atol=1e-5)


def test_text_alignment_pairs_each_picture_with_its_text(clip):
    """A shifted pairing would score pictures against their neighbours' prompts."""
    images, texts = [picture("red"), picture("blue")], ["a red box", "sea at night"]
    each = metrics.text_similarities(images, texts, clip)
    crossed = metrics.text_similarities(images, texts[::-1], clip)
    model, processor = clip
    with torch.no_grad():
        output = model(**processor(text=texts, images=images, padding=True, return_tensors="pt"))
    cosines = output.logits_per_image / model.logit_scale.exp()  # (pictures, texts)
    assert torch.allclose(each, cosines.diagonal(), atol=1e-5)
    assert torch.allclose(crossed, torch.stack([cosines[0, 1], cosines[1, 0]]), atol=1e-5)
    assert metrics.text_alignment(images, texts, clip) == pytest.approx(each.mean().item())


def test_encoders_are_looked_up_by_name(dino, monkeypatch):
    """A hub pipeline is measured with hub encoders, whose name must reach the loader."""
    from studylib.models import load

    asked = []
    monkeypatch.setattr(load, "load_dino", lambda *names: asked.append(names) or dino)
    metrics.image_features([picture("red")])
    metrics.image_features([picture("red")], "facebook/dino-vitb8")
    assert asked == [(), ("facebook/dino-vitb8",)]


def test_judge_names_and_accuracy():
    """Accuracy counts only what a prompt asks for; unsaid attributes are free."""
    network = ColourJudge()
    images = [picture("red", 64), picture("blue")]
    assert metrics.judge(images, network) == [
        {"noun": "box", "style": "neon"}, {"noun": "fish", "style": "flat"},
    ]
    expected = [{"noun": "box", "style": "sketch"}, {"noun": "fish"}]
    assert metrics.accuracy(images, expected, network) == pytest.approx(2 / 3)
    assert metrics.accuracy_by_attribute(images, expected, network) == {"noun": 1.0, "style": 0.0}
    probabilities = metrics.judge_probabilities(images, "noun", network)
    assert probabilities.shape == (2, 3) and torch.allclose(probabilities.sum(dim=1), torch.ones(2))


def test_content_leakage_rises_with_the_reference_noun():
    """Leakage is the reference's noun seen in targets: none in other things, nearly one in copies."""
    network = ColourJudge()
    for colours, leakage in ((["red", "blue"], 0), (["lime", "lime"], 1), (["lime", "blue"], 0.5)):
        found = metrics.content_leakage([picture(colour) for colour in colours], "cat", network)
        assert found == pytest.approx(leakage, abs=0.01)


def test_entropy_in_bits():
    """The unit is bits and one shared style counts as 0."""
    assert metrics.entropy(["flat"] * 4) == 0
    assert metrics.entropy(["flat", "neon", "sketch", "pixel"]) == pytest.approx(2)
    assert metrics.style_entropy([picture("red"), picture("blue")], ColourJudge()) == pytest.approx(1)
    assert metrics.style_entropy([picture("red")] * 3, ColourJudge()) == 0


def test_palette_distance_sees_colours_and_not_places():
    """The model-free check on style: moving things costs nothing, other colours cost more."""
    halves = picture("red")
    halves.paste(picture("blue", 64).resize((64, 128)), (0, 0))
    mirrored = halves.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert metrics.palette_distance([halves, mirrored]) == pytest.approx(0, abs=1e-6)
    near = metrics.palette_distance([picture("red"), picture("darkred")])
    far = metrics.palette_distance([picture("red"), picture("cyan")])
    assert 0 < near < far < metrics.palette_distance([picture("black"), picture("white")]) <= 1
    other = metrics.palette_distance([picture("darkred"), picture("cyan")])
    three = metrics.palette_distance([picture("red"), picture("darkred"), picture("cyan")])
    assert three == pytest.approx((near + far + other) / 3)


def test_psnr_against_a_known_error():
    """An error of one level in 255 everywhere is 48.13 dB; equal pictures have no noise at all."""
    grey, lighter = (Image.new("RGB", (8, 8), (level, level, level)) for level in (9, 10))
    assert metrics.psnr(grey, lighter) == pytest.approx(48.1308, abs=1e-3)
    assert metrics.psnr(picture("red"), picture("red")) == math.inf
    with pytest.raises(ValueError, match="one size"):
        metrics.psnr(picture("red", 8), picture("red", 16))


def test_reference_mass_of_even_attention():
    """Even attention over own and reference tokens puts half its mass on the reference."""
    weights = torch.full((2, 4, 16, 32), 1 / 32)
    assert metrics.reference_mass(weights, slice(16, None)) == pytest.approx(0.5)
    assert metrics.reference_mass(weights.half(), slice(24, 32)) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="sum to 1"):
        metrics.reference_mass(weights * 3, slice(16, None))
    with pytest.raises(ValueError, match="none of the 32"):
        metrics.reference_mass(weights, slice(32, 40))


@pytest.mark.parametrize("call", [
    lambda dino: metrics.set_consistency([], dino),
    lambda dino: metrics.set_consistency([picture("red")], dino),
    lambda dino: metrics.diversity([picture("red")], dino),
    lambda dino: metrics.image_features([], dino),
    lambda dino: metrics.text_alignment([], []),
    lambda dino: metrics.judge([], ColourJudge()),
    lambda dino: metrics.judge_probabilities([], "noun", ColourJudge()),
    lambda dino: metrics.accuracy([], [], ColourJudge()),
    lambda dino: metrics.content_leakage([], "cat", ColourJudge()),
    lambda dino: metrics.style_entropy([picture("red")], ColourJudge()),
    lambda dino: metrics.palette_distance([picture("red")]),
    lambda dino: metrics.entropy([]),
])
def test_too_few_pictures_are_refused(dino, call):
    """The mean of no pairs would be a NaN that travels on into a record."""
    with pytest.raises(ValueError, match=r"at least [12] (pictures|labels), got [01]"):
        call(dino)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: metrics.judge_probabilities([picture("red")], "nuon", ColourJudge()), "did you mean 'noun'"),
    (lambda: metrics.content_leakage([picture("red")], "dog", ColourJudge()), "only box, cat, fish"),
    (lambda: metrics.accuracy([picture("red")], [{"noun": "caat"}], ColourJudge()), "did you mean 'cat'"),
    (lambda: metrics.accuracy([picture("red")], [{}], ColourJudge()), "no attribute is expected"),
    (lambda: metrics.accuracy([picture("red")], [], ColourJudge()), "0 expected descriptions for 1"),
    (lambda: metrics.text_similarities([picture("red")], ["a", "b"]), "2 texts for 1"),
])
def test_errors_name_what_is_there(call, message):
    """A misspelt noun would otherwise score 0 and look like a finding."""
    with pytest.raises(ValueError, match=message):
        call()


def test_pixel_gap_is_the_largest_step_of_a_colour():
    """Identities of pictures are claimed byte by byte: one step of one colour must show, and sets must be as long."""
    one = Image.new("RGB", (4, 4), (10, 0, 255))
    other = one.copy()
    other.putpixel((3, 3), (10, 7, 255))
    assert metrics.pixel_gap([one, one], [one.copy(), one]) == 0 and metrics.pixel_gap([one, other], [one, one]) == 7
    with pytest.raises(ValueError):
        metrics.pixel_gap([one], [one, one])
    with pytest.raises(ValueError, match="sought at least 1"):
        metrics.pixel_gap([], [])
