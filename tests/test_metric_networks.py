import flax.linen as nn
import jax
import numpy as np
import pytest

from mmdiff_jax.convert import convert_checkpoint
from mmdiff_jax.metric_networks import audioclip, i3d, mel, panns, vggish
from tests.metric_golden import DATA, key_shapes, published_weights, rng


def relative(actual, wanted):
  return np.abs(np.asarray(actual) - wanted).max() / np.abs(wanted).max()


@pytest.fixture(scope="module")
def i3d_golden():
  return np.load(DATA / "i3d_pub.npz")


def test_i3d_from_published_weights_gives_the_golden_logits(i3d_golden):
  variables = convert_checkpoint(published_weights("i3d"), "i3d")
  clip = rng("pub/i3d/video").integers(0, 256, (2, 16, 3, 64, 64))
  video = clip.astype(np.uint8).transpose(0, 1, 3, 4, 2)
  logits = i3d.logits(variables, video)
  assert relative(logits, i3d_golden["logits"]) < 1e-5
  # A wrong pairing of clip and logits would not be near.
  assert relative(logits[::-1], i3d_golden["logits"]) > 1e-2


def test_i3d_preprocessing_is_half_pixel_bilinear(i3d_golden):
  clip = rng("pub/i3d/video").integers(0, 256, (2, 16, 3, 64, 64))
  video = clip.astype(np.uint8).transpose(0, 1, 3, 4, 2)
  out = jax.jit(i3d.preprocess)(video).transpose(0, 4, 1, 2, 3)
  corner = out[:, :, ::5, ::32, ::32]
  np.testing.assert_allclose(
    corner, i3d_golden["preprocessed_corner"], atol=2e-6
  )


def test_i3d_crops_the_centre_of_a_wide_frame():
  video = np.zeros((1, 2, 32, 64, 3), np.uint8)
  video[:, :, :, 16:48] = 255
  assert i3d.preprocess(video)[:, :, :, 5:-5].min() == 1.0


@pytest.mark.parametrize(
  "video, message",
  [
    (np.zeros((1, 16, 8, 8, 3), np.float32), "uint8"),
    (np.zeros((1, 8, 8, 8, 3), np.uint8), "at least 9 frames"),
  ],
)
def test_i3d_refuses(video, message):
  with pytest.raises(ValueError, match=message):
    i3d.logits({}, video)


def test_random_i3d_weights_depend_on_the_seed_alone():
  first, again = i3d.init_variables(3), i3d.init_variables(3)
  other = i3d.init_variables(4)
  kernel = ("params", "Conv3d_2c_3x3", "conv3d", "kernel")

  def leaf(tree):
    for name in kernel:
      tree = tree[name]
    return tree

  np.testing.assert_array_equal(leaf(first), leaf(again))
  assert np.abs(leaf(first) - leaf(other)).max() > 0.1
  # He-normal: the variance is 2 / fan-in.
  np.testing.assert_allclose(
    leaf(first).std(), np.sqrt(2 / (27 * 64)), rtol=0.01
  )


@pytest.fixture(scope="module")
def audioclip_variables():
  return convert_checkpoint(published_weights("audioclip_audio"), "audioclip")


@pytest.fixture(scope="module")
def golden_wave():
  wave = rng("pub/audioclip/audio").standard_normal((2, 1, 70560)) * 0.1
  return wave[:, 0].astype(np.float32)


def test_audioclip_from_published_weights_gives_the_golden_embedding(
  audioclip_variables, golden_wave
):
  golden = np.load(DATA / "audioclip_audio_pub.npz")
  out = audioclip.embed(audioclip_variables, golden_wave, protocol="paper")
  # With random weights the gates are steps: a few of 2 million flip with the
  # last bit of float32, others on every kind of processor (.9e-3 and 1.8e-3
  # were seen). One that flips early moves the embedding by .1.
  assert relative(out, golden["embedding"]) < 5e-3


def test_audioclip_spectrogram_is_the_golden_one(
  audioclip_variables, golden_wave
):
  golden = np.load(DATA / "audioclip_audio_pub.npz")
  front_end = {"params": audioclip_variables["params"]["fbsp"]}
  decibel = jax.jit(audioclip.Spectrogram().apply)(front_end, golden_wave)
  part = decibel.transpose(0, 3, 1, 2)[:, :, ::16, ::8]
  np.testing.assert_allclose(part, golden["spectrogram_db_slice"], atol=1e-3)


def test_audioclip_protocols_differ_by_the_16_bit_scale(
  audioclip_variables, golden_wave
):
  clean = audioclip.embed(audioclip_variables, golden_wave, "clean")
  scaled = audioclip.embed(audioclip_variables, golden_wave * 32768, "paper")
  paper = audioclip.embed(audioclip_variables, golden_wave, "paper")
  np.testing.assert_allclose(clean, scaled, rtol=1e-4, atol=1)
  assert relative(clean, np.asarray(paper)) > 1e-2


def test_audioclip_refuses_an_unknown_protocol():
  with pytest.raises(ValueError, match="paper, clean"):
    audioclip.embed({}, np.zeros((1, 70560)), protocol="raw")


def test_vggish_from_published_weights_gives_the_golden_embedding():
  golden = np.load(DATA / "vggish_pub.npz")
  t = np.arange(40000) / 16000
  noise = rng("pub/vggish/audio").standard_normal(40000)
  wave = 0.3 * np.sin(2 * np.pi * 440 * t * (1 + 0.1 * t)) + 0.05 * noise
  examples = vggish.log_mel_examples(wave[None])
  assert relative(examples[0], golden["log_mel"]) < 1e-6
  variables = convert_checkpoint(published_weights("vggish"), "vggish")
  embedding = vggish.embed(variables, wave[None])
  assert embedding.shape == (1, 2, 128)
  assert relative(embedding[0], golden["embedding"]) < 1e-5


def test_vggish_says_how_much_audio_it_needs():
  with pytest.raises(ValueError, match="15600 samples"):
    vggish.embed({}, np.zeros((1, 8000)))


def test_panns_from_published_weights_gives_the_golden_embedding():
  golden = np.load(DATA / "panns_pub.npz")
  noise = rng("pub/panns/audio").standard_normal((2, 20000)) * 0.1
  wave = noise.astype(np.float32)
  variables = convert_checkpoint(published_weights("panns"), "panns")
  front_end = {"params": variables["params"]["logmel_extractor"]}
  decibel = panns.LogMel().apply(front_end, wave)
  assert decibel.shape == (2, 63, 64)
  np.testing.assert_allclose(decibel[:, ::8, ::4], golden["log_mel"], atol=1e-3)
  embedding = panns.embed(variables, wave)
  assert relative(embedding, golden["embedding"]) < 1e-4
  assert relative(embedding[::-1], golden["embedding"]) > 1e-2


def test_panns_says_how_much_audio_it_needs():
  with pytest.raises(ValueError, match="9920 samples"):
    panns.embed({}, np.zeros((1, 8000)))


def zero_weights(kind):
  return {key: np.zeros(shape) for key, shape in key_shapes(kind).items()}


def test_importers_list_leftovers_on_both_sides():
  weights = zero_weights("i3d")
  weights["logits.surprise"] = weights.pop("logits.conv3d.bias")
  with pytest.raises(ValueError) as error:
    convert_checkpoint(weights, "i3d")
  assert "missing (1): logits.conv3d.bias" in str(error.value)
  assert "unexpected (1): logits.surprise" in str(error.value)


def test_audioclip_importer_leaves_the_other_towers_aside():
  weights = zero_weights("audioclip_audio")
  weights["visual.conv1.weight"] = np.zeros((3, 3))
  weights["transformer.resblocks.0.ln_1.bias"] = np.zeros(3)
  weights["logit_scale_ai"] = np.zeros(())
  convert_checkpoint(weights, "audioclip")
  weights["audio.unknown.weight"] = np.zeros((3, 3))
  with pytest.raises(ValueError, match="unknown"):
    convert_checkpoint(weights, "audioclip")


def test_log_mel_of_a_tone_peaks_in_the_tone_band():
  wave = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
  band = mel.log_mel(wave).mean(axis=0).argmax()
  edges = np.linspace(mel.hertz_to_mel(125), mel.hertz_to_mel(7500), 66)
  assert edges[band] < mel.hertz_to_mel(1000) < edges[band + 2]


@pytest.mark.parametrize("frames", [16, 9])
def test_i3d_convolutions_and_pools_match_their_definitions(frames):
  draw = np.random.default_rng(0)
  x = draw.uniform(size=(2, frames, 24, 20, 3)).astype(np.float32)
  for size, strides in ((7, (2, 2, 2)), (3, (1, 1, 1)), (1, (1, 1, 1))):
    kernel = draw.normal(size=(size, size, size, 3, 5)).astype(np.float32)
    expected = jax.lax.conv_general_dilated(
      x,
      kernel,
      strides,
      "SAME",
      dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    np.testing.assert_allclose(
      i3d.convolve(x, kernel, strides), expected, atol=2e-4
    )
  for window, strides in (((3, 3, 3), (1, 1, 1)), ((3, 3, 3), (2, 2, 2))):
    np.testing.assert_array_equal(
      i3d._max_pool(x, window, strides),
      nn.max_pool(x, window, strides, padding="SAME"),
    )
