"""Banks: what one pass wrote, another reads by site and timestep."""

from __future__ import annotations

import pytest
import torch

from studylib.denoisers.attention import attention_hook
from studylib.denoisers.bank import Bank
from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.hooks import feature_hook, stop_after
from tests.denoisers.tiny_transformers import flux
from tests.tiny_pipelines import sd

SITE = "mid_block.attentions.0.transformer_blocks.0.attn1"


@pytest.fixture(scope="module")
def denoiser():
    return Denoiser(sd())


def noise(seed: int) -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_a_second_pass_reads_what_the_first_wrote(denoiser):
    """Reading back its own keys and values changes no bit; those of another picture change the prediction."""
    bank, other = Bank(), Bank()
    plain = {}
    with bank.writing_attention(denoiser.network, where="self"):
        for timestep in (801, 401):
            plain[timestep] = denoiser.predict(noise(0), timestep, ["a cat"])
    with other.writing_attention(denoiser.network, where="self"):
        for timestep in (801, 401):
            denoiser.predict(noise(1), timestep, ["a dog"])
    assert bank.timesteps == [801.0, 401.0] and SITE in bank.names

    def read_from(source):
        def hook(call):
            call.key, call.value = source.read(call.site.name, call.timestep, like=call.key)

        return hook

    for source, same in ((bank, True), (other, False)):
        with attention_hook(denoiser.network, read_from(source), where="self"):
            found = {timestep: denoiser.predict(noise(0), timestep, ["a cat"]) for timestep in plain}
        assert all(torch.equal(found[t], plain[t]) == same for t in plain)
    assert torch.equal(denoiser.predict(noise(0), 801, ["a cat"]), plain[801])  # closed, nothing is left


@torch.no_grad()
def test_features_up_to_a_block(denoiser):
    """A pass that is wanted for its features ends at the last of them; tuples are kept tensor by tensor."""
    bank, seen = Bank(dtype=torch.float16), []
    with feature_hook(denoiser.network, lambda call: seen.append(call.output), where="up_blocks.1"):
        with bank.writing_features(denoiser.network, where=["mid_block", "down_blocks.0"]):
            with stop_after(denoiser.network, "up_blocks.0"):
                denoiser.predict(noise(0), 401, ["a cat"])
    assert bank.names == ["down_blocks.0", "mid_block"] and len(bank.read("down_blocks.0", 401.0)) == 3
    (kept,) = bank.read("mid_block", 401.0)
    assert kept.dtype == torch.float16 and not seen
    (back,) = bank.read("mid_block", 401.0, like=torch.zeros(1))
    assert back.dtype == torch.float32


def test_what_is_kept_is_a_copy_without_gradients():
    """A tensor that the model goes on to edit in place must not change in the bank, nor hold its graph alive."""
    bank, tensor = Bank(), torch.ones(2, 3, requires_grad=True)
    made = tensor * 2
    bank.write("here", 5.0, made, torch.tensor([1, 2]))
    made.data.zero_()
    kept, whole = bank.read("here", 5.0)
    assert kept.eq(2).all() and not kept.requires_grad and whole.dtype == torch.int64


def test_a_bank_prints_its_memory():
    """Banks of all sites and steps fill a GPU: how much they take stands in one line."""
    bank = Bank(device="cpu")
    assert repr(bank) == "Bank of 0 places at 0 timesteps: 0.0 MiB on no device"
    bank.write("a", 1.0, torch.zeros(1 << 18), torch.zeros(1 << 18))
    bank.write("b", 3.0, torch.zeros(1 << 18))
    assert repr(bank) == "Bank of 2 places at 2 timesteps: 3.0 MiB on cpu" and bank.memory_mib == 3.0
    bank.clear()
    assert bank.memory_mib == 0


def test_a_bank_says_what_is_missing():
    """Another schedule, another site, two passes of guidance: each needs another remedy."""
    bank = Bank()
    with pytest.raises(LookupError, match="nothing was written to this bank"):
        bank.read("a", 1.0)
    bank.write("a", 1.0, torch.zeros(1))
    with pytest.raises(LookupError, match="nothing was written of 'b', only of a"):
        bank.read("b", 1.0)
    with pytest.raises(LookupError, match="not written at timestep 2.0, only at 1: both passes need the same schedule"):
        bank.read("a", 2.0)
    bank.write("a", 1.0, torch.ones(1))
    with pytest.raises(LookupError, match="a ran 2 times at timestep 1: choose one with run="):
        bank.read("a", 1.0)
    assert bank.read("a", 1.0, run=1)[0] == 1
    with pytest.raises(ValueError, match="not one timestep for all its samples"):
        bank.write("a", None, torch.zeros(1))


@torch.no_grad()
def test_timesteps_may_be_chosen_and_flux_has_places():
    """Only what is read later is kept; a FLUX hook sees appended condition tokens under their name."""
    denoiser = Denoiser(flux())
    prompt, bank, places = denoiser.prompt(["cat"], max_sequence_length=8), Bank(), []
    with attention_hook(denoiser.network, lambda call: places.append(call.places), where="joint"):
        with bank.writing_attention(denoiser.network, where="joint", timesteps=[0.5]):
            for timestep in (750, 500, 250):
                denoiser.predict(noise(0), timestep, prompt, appended_latents=noise(1)[:, :, :4])
    assert bank.timesteps == [0.5]  # FLUX's network is told a thousandth
    assert places[0] == {"text": slice(0, 8), "image": slice(8, 24), "condition": slice(24, 32)}
    assert len(places) == 6 and all(one == places[0] for one in places)
