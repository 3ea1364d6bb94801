"""Networks on the meta device: the real ones' layers, counted without their weights."""

from studylib.models.architectures import sd15_text_encoder, sd15_unet


def test_counts_of_stable_diffusion():
    """Papers' sizes are counted on these: a wrong width or a missing layer would change them all."""
    unet, encoder = sd15_unet(), sd15_text_encoder()
    assert unet.num_parameters() == 859_520_964 and encoder.num_parameters() == 123_060_480
    assert encoder.get_input_embeddings().weight.shape == (49_408, 768)
    assert {weight.device.type for network in (unet, encoder) for weight in network.parameters()} == {"meta"}
