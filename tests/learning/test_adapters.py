"""A LoRA of peft's in a network for a block: identity before training, gone after it."""

import pytest
import torch

from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.noise import denoising_errors
from studylib.learning.adapters import lora_adapter
from studylib.learning.training import TrainingConfig, fit
from tests.denoisers.tiny_transformers import flux
from tests.tiny_pipelines import sd


@pytest.mark.parametrize("make", [sd, flux])
def test_a_lora_is_trained_and_taken_out_again(make):
    """Before training it changes no bit; after the block the layers are the same objects and the weights the same."""
    denoiser = Denoiser(make())
    network, options = denoiser.network, {} if make is sd else {"max_sequence_length": 8}
    modules = dict(network.named_modules())
    weights = {name: weight.clone() for name, weight in network.named_parameters()}
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    prompt = denoiser.prompt(["cat"], **options).detach()

    def predict():
        with torch.no_grad():
            return denoiser.predict(noise, 500, prompt)

    def draw(generator):
        return {"noise": torch.randn(2, 4, 8, 8, generator=generator)}

    def loss(batch):
        clean = torch.ones(2, 4, 8, 8)
        return denoising_errors(denoiser, clean, prompt, batch["noise"], torch.tensor([300, 600])).mean()

    plain = predict()
    with lora_adapter(network, rank=2, seed=1) as adapter:
        assert torch.equal(predict(), plain)
        assert all(name.endswith((".A", ".B")) for name in adapter.parameters())
        history = fit(adapter.parameters(), draw, loss, TrainingConfig(steps=3, learning_rate=1e-2))
        trained, learned = predict(), adapter.weights()
        adapter.set_strength(0)
        assert torch.equal(predict(), plain)
    assert history.parameters == sum(weight.numel() for weight in learned.values())
    assert not torch.allclose(trained, plain, atol=1e-4)
    assert dict(network.named_modules()) == modules and not hasattr(network, "peft_config")
    assert torch.equal(predict(), plain)
    assert all(torch.equal(weight, weights[name]) for name, weight in network.named_parameters())
    assert all(weight.requires_grad for weight in network.parameters())
    with lora_adapter(network, rank=2, weights=learned):
        torch.testing.assert_close(predict(), trained)
    with lora_adapter(network, rank=2, weights=learned, strength=0.5):
        half = predict()
    assert 0 < (half - plain).norm() < (trained - plain).norm()


def test_an_adapter_says_what_does_not_fit():
    """No layer of that name, and factors of other layers."""
    network = sd().unet
    with pytest.raises(LookupError, match="no linear layer that ends in to_nothing"):
        with lora_adapter(network, targets=["to_nothing"]):
            pass
    with pytest.raises(LookupError, match="no factor 'elsewhere.A'"):
        with lora_adapter(network, weights={"elsewhere.A": torch.zeros(1)}):
            pass
    assert not hasattr(network, "peft_config")
    same = []
    for seed in (3, 3, 4):
        with lora_adapter(network, rank=2, seed=seed) as adapter:
            same.append(torch.cat([weight.flatten() for weight in adapter.weights().values()]))
    assert torch.equal(same[0], same[1]) and not torch.equal(same[0], same[2])
