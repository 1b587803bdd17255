"""Hostile, broken and wrong numbers: a line that names file and clip."""

import io
import struct
import zipfile

import numpy as np
import pytest

from mmdiff_jax.av import AVSpec
from mmdiff_jax.convert.state_dict import find_state_dict
from mmdiff_jax.data import clips as clip_format
from mmdiff_jax.data.sources import ClipList
from mmdiff_jax.data.sources.prepared import open_tfrecord
from mmdiff_jax.data.tfrecord import (
  CorruptRecordError,
  TFRecordWriter,
  masked_crc,
  read_records,
)
from mmdiff_jax.disk.arrays import npz_headers, read_npz
from mmdiff_jax.evaluation.clip_sets import open_clips
from mmdiff_jax.evaluation.evaluate import evaluate
from mmdiff_jax.training import divergence, loop
from tests.command_line import call
from tests.prepared_fixtures import write_dataset
from tests.test_loop import ROOT
from tests.toy import make_toy_config

SPEC = AVSpec(2, 16, 16, 10.0, 2000)
CONFIG = f"--config={ROOT / 'tests' / 'faults' / 'toy_config.py'}"


def npy(array):
  buffer = io.BytesIO()
  np.save(buffer, array, allow_pickle=True)
  return buffer.getvalue()


def declare(shape, dtype="|u1", data=b""):
  """An .npy member whose header promises more than it has."""
  buffer = io.BytesIO()
  header = {"descr": dtype, "fortran_order": False, "shape": shape}
  np.lib.format.write_array_header_1_0(buffer, header)
  return buffer.getvalue() + data


def write_members(path, **members):
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, content in members.items():
      archive.writestr(f"{name}.npy", content)
  return path


def write_clips(path, **changed):
  rng = np.random.default_rng(0)
  arrays = {
    "video": rng.integers(0, 256, (4, *SPEC.video_shape), np.uint8),
    "audio": rng.uniform(-0.5, 0.5, (4, *SPEC.audio_shape)),
  }
  np.savez(path, **arrays | changed)
  return path


def sound(value, dtype=np.float64, scale=1.0):
  """Sound of four clips, the third of which has one other sample."""
  audio = np.random.default_rng(1).uniform(-0.5, 0.5, (4, *SPEC.audio_shape))
  audio = (scale * audio).astype(dtype)
  if value is not None:
    audio[2, 100] = value
  return audio


def test_arrays_are_read_as_numpy_reads_them(tmp_path):
  arrays = {
    "a": np.arange(6, dtype=np.int16).reshape(2, 3),
    "b": np.asfortranarray(np.random.default_rng(0).normal(size=(3, 4))),
    "empty": np.zeros((0, 5)),
    "word": np.array(["x", "yz"]),
    "scalar": np.float32(3),
  }
  for save in (np.savez, np.savez_compressed):
    save(tmp_path / "a.npz", **arrays)
    read, expected = read_npz(tmp_path / "a.npz"), np.load(tmp_path / "a.npz")
    assert list(read) == list(expected)
    for name, array in read.items():
      np.testing.assert_array_equal(array, expected[name])
      assert array.dtype == expected[name].dtype
    headers = npz_headers(tmp_path / "a.npz")
    assert {k: h.shape for k, h in headers.items()} == {
      k: x.shape for k, x in read.items()
    }


HOSTILE = {
  "clips": (declare((10**12, 2, 16, 16, 3)), "1000000000000x2x16x16x3"),
  "object": (npy(np.array([{}], object)), "Python objects"),
  "negative": (declare((-1, 4)), "-1x4"),
  "short": (npy(np.zeros((4, 100)))[:-8], "3,200 bytes, and has 3,192"),
  "long": (npy(np.zeros((4, 100))) + b"more", "3,200 bytes, and has 3,204"),
  "no header": (b"nothing", "magic"),
  "later": (b"\x93NUMPY\x09\x00" + bytes(200), "unknown version"),
  "text": (b"\x93NUMPY\x01\x00\x10\x00{'descr': print}", "header"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_member_is_one_line(tmp_path, name):
  member, words = HOSTILE[name]
  path = write_members(tmp_path / "a.npz", video=member)
  for read in (read_npz, npz_headers):
    with pytest.raises(ValueError, match="a.npz is not a whole") as error:
      read(path)
    text = str(error.value)
    assert "\n" not in text and "allow_pickle" not in text
    assert words.lower() in text.lower()


def test_a_declared_size_that_the_file_cannot_hold_is_refused(tmp_path):
  """The list of members may lie as well as their headers."""
  path = write_members(tmp_path / "a.npz", video=declare((2**40,)))
  data = bytearray(path.read_bytes())
  place = data.index(b"PK\x01\x02")
  size = 2**32 - 2
  data[place + 24 : place + 28] = struct.pack("<I", size)
  path.write_bytes(data)
  with pytest.raises(ValueError, match="a.npz is not a whole"):
    read_npz(path)


def test_no_flipped_bit_or_cut_of_an_archive_is_read(tmp_path):
  path = tmp_path / "a.npz"
  np.savez_compressed(path, a=np.arange(50), b=np.ones((3, 4)))
  content, expected = path.read_bytes(), read_npz(path)
  rng = np.random.default_rng(0)
  refused = 0
  for position in rng.integers(8 * len(content), size=200):
    data = bytearray(content)
    data[position // 8] ^= 1 << position % 8
    path.write_bytes(data if position % 3 else content[: position // 8])
    try:
      read = read_npz(path)
    except ValueError as error:
      assert "\n" not in str(error) and "a.npz" in str(error)
      refused += 1
    else:
      # A bit of a name or of a time, which nothing depends on.
      for old, new in zip(expected.values(), read.values(), strict=True):
        np.testing.assert_array_equal(old, new)
  assert refused > 150


BAD_SOUND = {
  "nan": (sound(np.nan), "000002: its audio has NaN or infinity; 1 of 4"),
  "inf": (sound(-np.inf, np.float32), "000002: its audio has NaN or infinity"),
  "1e300": (sound(1e300), "000002: its audio reaches 1e+300, full scale is 1"),
  "1e38": (sound(1e38, np.float32), "000002: its audio reaches 1e+38"),
  "scaled": (sound(None, scale=32767), "000000: its audio reaches"),
  "integers": (sound(None, np.int16, 32767), "audio must be float in [-1, 1]"),
  "words": (sound(None).astype(str), "audio must be float in [-1, 1], got <U"),
  "complex": (sound(None, np.complex64), "got complex64"),
}


@pytest.mark.parametrize("name", BAD_SOUND)
def test_bad_sound_is_named_ahead_of_training(tmp_path, capsys, name):
  audio, words = BAD_SOUND[name]
  path = write_clips(tmp_path / "clips.npz", audio=audio)
  run = tmp_path / "run"
  (run / "checkpoints" / "4").mkdir(parents=True)
  flags = ["train", CONFIG, f"--workdir={run}", f"--config.data.source={path}"]
  assert call(*flags) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f"error: {path}") and words in line
  assert "learning_rate" not in line
  assert (run / "checkpoints" / "4").exists()


def test_numbers_that_go_with_clips_are_looked_at_too(tmp_path):
  embedding = np.ones((4, 3))
  embedding[1, 1] = np.nan
  path = write_clips(tmp_path / "clips.npz", embedding=embedding)
  with pytest.raises(ValueError, match="000001: its embedding has NaN"):
    open_clips(path, SPEC).load(1)


def test_a_bad_clip_of_many_is_left_out_of_an_evaluation(tmp_path):
  good = write_clips(tmp_path / "good.npz")
  bad = write_clips(tmp_path / "bad.npz", audio=sound(32000.0))
  settings = {
    "spec": SPEC,
    "metrics": ["fad_mel"],
    "cache_dir": None,
    "progress": False,
  }
  report = evaluate(real=good, fake=bad, max_bad=0.3, **settings)
  ((clip, reason),) = report["fake"]["skipped"]
  assert clip == "000002" and reason.startswith("its audio reaches 32000")
  with pytest.raises(ValueError, match="1 of 4 clips cannot be used.*000002"):
    evaluate(real=good, fake=bad, **settings)


def test_sound_a_little_beyond_full_scale_is_clipped_and_said_to_be(tmp_path):
  path = write_clips(tmp_path / "clips.npz", audio=sound(1.25))
  source = open_clips(path, SPEC)._source
  clip = source.clip("000002", 0)
  assert clip.audio().max() == 1.0
  assert clip.repairs() == ("audio exceeds full scale: 1 samples clipped",)
  assert source.clip("000001", 0).repairs() == ()


class Loader:
  """Batches of one's own, of which one holds a number that it should not."""

  def __init__(self, value=np.nan, bad_at=3, dtype=np.float32):
    self.next_index, self._bad_at = 0, bad_at
    self._value, self._dtype = value, dtype

  def __next__(self):
    self.next_index += 1
    rng = np.random.default_rng(self.next_index)
    batch = {
      "video": rng.integers(0, 256, (2, *SPEC.video_shape), np.uint8),
      "audio": rng.uniform(-1, 1, (2, *SPEC.audio_shape)).astype(self._dtype),
    }
    if self.next_index == self._bad_at:
      batch["audio"][1, 7] = self._value
    return batch

  def get_state(self):
    return {"next_index": self.next_index}

  def set_state(self, state):
    self.next_index = state["next_index"]

  def close(self):
    pass


@pytest.mark.parametrize(
  ("value", "dtype"), [(np.nan, np.float32), (1e300, np.float64)]
)
def test_bad_numbers_of_a_loader_cost_no_checkpoint(tmp_path, value, dtype):
  config = make_toy_config()
  config.train.update(checkpoint_every=1, num_steps=4)
  for _ in range(2):  # The second run meets them again.
    with pytest.raises(
      ValueError, match="Step 3: audio of clip 1 .*no checkpoint is removed"
    ) as error:
      loop.train(config, tmp_path, loader=Loader(value, dtype=dtype))
    assert "learning_rate" not in str(error.value)
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"1", "2"}
  state = loop.train(config, tmp_path, loader=Loader(bad_at=None))
  assert int(state.step) == 4


def test_a_run_that_skips_names_the_clip_and_goes_on(tmp_path, caplog):
  config = make_toy_config()
  config.train.update(num_steps=4, on_nonfinite="skip")
  state = loop.train(config, tmp_path, loader=Loader())
  assert int(state.step) == 4
  assert "Step 3: audio of clip 1 of the batch holds nan" in caplog.text


@pytest.mark.parametrize("learning_rate", [1e38, 1e19])
def test_a_divergence_that_a_preview_sees_first_names_step_and_cure(
  tmp_path, learning_rate
):
  """The first leaves parameters, the second at most samples, not finite."""
  config = make_toy_config()
  config.train.update(
    learning_rate=learning_rate, preview_every=1, preview_steps=2,
    preview_samples=1, log_every=4, checkpoint_every=4, warmup_steps=0,
  )  # fmt: skip
  with pytest.raises(
    divergence.NonFiniteLossError,
    match=r"tep \d: .*not finite.*learning_rate.*starts anew",
  ) as error:
    loop.train(config, tmp_path)
  assert "\n" not in str(error.value)


def test_a_record_that_declares_more_than_the_file_is_one_line(tmp_path):
  header = struct.pack("<Q", 2**62)
  header += struct.pack("<I", masked_crc(header))
  path = tmp_path / "a.tfrecord"
  path.write_bytes(header + b"data")
  with pytest.raises(CorruptRecordError, match="a.tfrecord#0: the file ends"):
    list(read_records(path))


def test_a_dictionary_that_holds_itself_is_refused():
  endless = {"a": 1}
  endless["model"] = endless
  with pytest.raises(ValueError, match="x.pt holds dictionaries within each"):
    find_state_dict(endless, "x.pt")
  deep = {"weight": 1}
  for _ in range(5):
    deep = {"state_dict": deep}
  assert find_state_dict(deep, "x.pt") == {"weight": 1}


@pytest.mark.parametrize(
  ("frames", "words"),
  [
    ([b"nothing"] * 2, "cannot be decoded"),
    (["wide"] * 2, "is not of 16x16 pixels"),
  ],
)
def test_a_frame_that_is_no_picture_of_its_size_is_one_line(
  tmp_path, frames, words
):
  folder = write_dataset(tmp_path / "data", SPEC, (2,), frame_format="png")
  wide = clip_format.encode_frame(np.zeros((16, 32, 3), np.uint8), "png")
  record = clip_format.encode_segment(
    SPEC,
    source="video_000.mp4",
    start=0,
    frames=[wide if frame == "wide" else frame for frame in frames],
    frame_format="png",
    audio=np.zeros((400, 1)),
  )
  with TFRecordWriter(min(folder.glob("*.tfrecord"))) as writer:
    writer.write(record)
  clip = ClipList(open_tfrecord(folder))[0]
  with pytest.raises(ValueError, match=f"frame 0 of video_000.mp4 {words}"):
    clip.video()
