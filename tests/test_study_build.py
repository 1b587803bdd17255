"""Built studies: alike on the outside, the truth apart, loudness as defined."""

import contextlib
import json
from fractions import Fraction

import av
import numpy as np
import pytest

from mmdiff_jax.disk.files import file_sha256
from mmdiff_jax.media import reading
from mmdiff_jax.study import texts
from mmdiff_jax.study.building import loudness
from mmdiff_jax.study.building.sources import choose, find_sources
from mmdiff_jax.study.folder import load_study, load_truth
from mmdiff_jax.study.settings import load_settings
from tests.media_fixtures import click_track, flash_frames, write
from tests.study_fixtures import build_small, small_settings


@pytest.fixture(scope="module")
def study(tmp_path_factory):
  return build_small(tmp_path_factory.mktemp("study"))


def tone(frequency, decibel, seconds=2.0):
  time = np.arange(round(seconds * loudness.RATE)) / loudness.RATE
  return 10 ** (decibel / 20) * np.sin(2 * np.pi * frequency * time)


def test_loudness_meets_the_standards_reference():
  # BS.1770-4, Annex 1: 0 dBFS at 997 Hz in one channel reads -3.01 LKFS.
  assert loudness.loudness(tone(997, 0.0)) == pytest.approx(-3.01, abs=0.02)
  assert loudness.loudness(tone(997, -20.0)) == pytest.approx(-23.01, abs=0.02)


def test_silence_between_sounds_does_not_count():
  # The gates: EBU Tech 3341, case 3 in short.
  loud = tone(997, -20.0, 30.0)
  quiet = tone(997, -60.0, 30.0)
  parts = np.concatenate([quiet, loud, quiet])
  assert loudness.loudness(parts) == pytest.approx(-23.0, abs=0.1)


def test_loudness_agrees_with_ffmpeg():
  rng = np.random.default_rng(0)
  noise = rng.normal(0, 0.1, 240_000) * np.repeat([1.0, 0.1, 0.5], 80_000)
  graph = av.filter.Graph()
  base = Fraction(1, loudness.RATE)
  source = graph.add_abuffer(
    sample_rate=loudness.RATE, format="fltp", layout="mono", time_base=base
  )
  measure = graph.add("ebur128", "metadata=1")
  sink = graph.add("abuffersink")
  source.link_to(measure)
  measure.link_to(sink)
  graph.configure()
  frame = av.AudioFrame.from_ndarray(
    noise[None].astype(np.float32), format="fltp", layout="mono"
  )
  frame.sample_rate, frame.pts, frame.time_base = loudness.RATE, 0, base
  graph.push(frame)
  graph.push(None)
  readings = []
  with contextlib.suppress(av.error.EOFError, av.error.BlockingIOError):
    while True:
      readings.append(float(graph.pull().metadata["lavfi.r128.I"]))
  assert loudness.loudness(noise) == pytest.approx(readings[-1], abs=0.05)


def test_all_clips_are_equally_loud(study):
  truth = load_truth(study)
  for clip, what in truth.items():
    audio, rate = reading.read_audio(study.clip_path(clip))
    assert rate == loudness.RATE
    measured = loudness.loudness(audio[:, 0])
    if what["trap"] == "muted":
      assert measured < -60
    elif np.abs(audio).max() < 0.85:
      assert measured == pytest.approx(-23.0, abs=0.7)


def stream_facts(path):
  with av.open(str(path)) as container:
    assert not set(container.metadata) - {
      "major_brand", "minor_version", "compatible_brands",
    }  # fmt: skip
    picture, sound = container.streams.video[0], container.streams.audio[0]
    return (
      picture.codec.name, picture.width, picture.height, picture.pix_fmt,
      picture.average_rate, picture.frames, picture.duration,
      sound.codec.name, sound.rate, sound.layout.name, sound.duration,
      sound.frames, container.duration,
    )  # fmt: skip


def boxes(path):
  """(name, size) of the boxes of an mp4, in their order."""
  data, place = path.read_bytes(), 0
  while place < len(data):
    size = int.from_bytes(data[place : place + 4], "big")
    yield data[place + 4 : place + 8].decode(), size
    place += size


def test_streams_headers_sizes_and_dates_are_the_same_for_all(study):
  paths = [study.clip_path(clip) for clip in study.clips]
  assert len({stream_facts(path) for path in paths}) == 1
  assert len({(p.stat().st_size, p.stat().st_mtime) for p in paths}) == 1
  (layout,) = {tuple(boxes(path)) for path in paths}
  assert [name for name, _ in layout if name != "free"] == [
    "ftyp", "moov", "mdat",
  ]  # fmt: skip


def test_a_classifier_of_names_sizes_and_order_is_at_chance(study):
  truth = load_truth(study)
  clips = [c for c in study.clips if truth[c]["trap"] is None]
  shown = {clip: [] for clip in study.clips}
  for slot in study.slots:
    for place, trial in enumerate(slot.trials):
      for side, clip in enumerate(trial.clips):
        shown[clip].append((place, side))
  # Training items are shown first to all, whatever they are.
  training = {
    clip for clip in clips for place, _ in shown[clip] if place < 2
  } | {clip for clip in clips if not shown[clip]}
  clips = [c for c in clips if c not in training]
  real = np.array([truth[c]["system"] == "real" for c in clips])
  stats = [study.clip_path(c).stat() for c in clips]
  features = np.array([
    [int(c[i : i + 3], 16) for i in range(0, 24, 3)]
    + [s.st_size, s.st_mtime, place, *np.mean(shown[c], 0), len(shown[c])]
    for place, (c, s) in enumerate(zip(clips, stats, strict=True))
  ])  # fmt: skip
  features = features - features.mean(0)
  features = features / np.where(features.std(0) > 0, features.std(0), 1.0)
  # Leave-one-out nearest class mean, against labels shuffled 500 times.
  rng = np.random.default_rng(0)

  def accuracy(labels):
    right = 0
    for i in range(len(labels)):
      rest = np.arange(len(labels)) != i
      means = [features[rest & (labels == v)].mean(0) for v in (False, True)]
      distance = [np.sum((features[i] - m) ** 2) for m in means]
      right += (distance[1] < distance[0]) == labels[i]
    return right / len(labels)

  chance = [accuracy(rng.permutation(real)) for _ in range(500)]
  assert accuracy(real) <= np.quantile(chance, 0.999)


def test_the_truth_is_apart_and_sealed(study, tmp_path):
  text = (study.path / "study.json").read_text()
  for word in ("real/", '"bad"', "clip_0000", '"system"', "muted"):
    assert word not in text
  again = load_study(study.path)
  assert again == study
  truth = study.path / "truth.json"
  content = truth.read_text()
  try:
    truth.write_text(content.replace('"good"', '"real"', 1))
    with pytest.raises(ValueError, match="sha256 differs"):
      load_truth(study)
  finally:
    truth.write_text(content)


def test_practice_begins_with_any_system_and_any_item(study):
  truth = load_truth(study)
  shown = {}
  for slot in study.slots:
    trials = [t for t in slot.trials if t.kind == "training"]
    assert len(trials) == 2
    for place, trial in enumerate(trials):
      what = tuple(truth[clip]["system"] for clip in trial.clips)
      shown.setdefault((slot.task, place), []).append(what)
      source = truth[trial.clips[0]]["source"]
      shown.setdefault(("source", place), []).append(source)
  systems = {("real",), ("good",), ("bad",)}
  for place in range(2):
    for task in ("turing", "opinion"):
      assert set(shown[task, place]) == systems
    # Real ones are A as well as B.
    firsts = {pair[0] for pair in shown["preference", place]}
    assert firsts == {"real", "good", "bad"}
    assert len(set(shown["source", place])) == 2


def test_slots_hold_known_clips_one_version_of_a_source(study):
  truth = load_truth(study)
  for slot in study.slots:
    sources = []
    for trial in slot.trials:
      what = [truth[clip] for clip in trial.clips]
      assert len(what) == (2 if slot.task == "preference" else 1)
      assert len({w["source"] for w in what}) == 1
      traps = [w["trap"] for w in what if w["trap"]]
      assert bool(traps) == (trial.kind == "trap")
      if trial.kind == "regular":
        sources.append(what[0]["source"])
    assert len(set(sources)) == len(sources) == 8


def test_traps_have_their_faults(study):
  truth = load_truth(study)
  kinds = {}
  for clip, what in truth.items():
    if what["trap"]:
      spoilt = reading.read_media(study.clip_path(clip))
      intact = reading.read_media(study.clip_path(what["of"]))
      kinds.setdefault(what["trap"], []).append((spoilt, intact))
  assert set(kinds) == {"foreign", "frozen", "muted"}
  for spoilt, _ in kinds["muted"]:
    assert np.abs(spoilt.audio).max() < 1e-3
  for spoilt, intact in kinds["frozen"]:
    assert np.abs(np.diff(spoilt.video.astype(int), axis=0)).mean() < 1
    assert np.allclose(spoilt.audio, intact.audio, atol=1e-3)
  for spoilt, intact in kinds["foreign"]:
    assert np.array_equal(spoilt.video, intact.video)
    assert np.abs(spoilt.audio - intact.audio).max() > 0.02


def test_different_sources_become_alike(tmp_path):
  from mmdiff_jax.study.building import encode

  wide, square = tmp_path / "wide.mp4", tmp_path / "square.mp4"
  times = np.arange(60) / 30
  write(
    wide, flash_frames(times, 90, 160), rate=30,
    audio=click_track(2.0, 48000), audio_rate=48000,
  )  # fmt: skip
  times = np.arange(16) / 10
  write(square, flash_frames(times, 64, 64), audio=click_track(1.6, 16000))
  settings = load_settings().clip
  geometry = encode.common_geometry([wide, square], settings)
  assert (geometry.height, geometry.width) == (64, 64)
  assert (geometry.fps, geometry.frames) == (10, 16)
  assert geometry.sample_rate == 16000
  for path in (wide, square):
    video, audio = encode.read_clip(path, geometry)
    assert video.shape == (16, 64, 64, 3)
    assert audio.shape == (76800,)
    # No bars: the picture is uniform up to the edges.
    assert np.ptp(video[0].astype(int)) < 12
  mute = tmp_path / "mute.mp4"
  write(mute, flash_frames(times, 64, 64))
  with pytest.raises(ValueError, match="has no sound"):
    encode.common_geometry([mute], settings)


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("votes: 3", "votes"),
    ("tasks: {turing: {votes: 0, per_rater: 3}}", "must be positive"),
    ("tasks: {guess: {votes: 1, per_rater: 3}}", "tasks must be some of"),
    ("repeats: 1.5", "shares"),
    ("languages: []", "languages must name"),
    ("match: size", "match must be one of"),
    ("clip: {colour: red}", "colour"),
  ],
)
def test_mistakes_in_the_settings_are_named(tmp_path, text, words):
  path = tmp_path / "mine.yaml"
  path.write_text(text)
  with pytest.raises(ValueError, match=words):
    load_settings(path)


def test_the_papers_preset():
  settings = load_settings("paper")
  assert settings.clips_per_system == 500
  assert {t.votes for t in settings.tasks.values()} == {5}
  assert set(settings.tasks) == {"turing", "opinion"}
  assert settings.exclusion == load_settings().exclusion
  with pytest.raises(ValueError, match="no such preset"):
    load_settings("nowhere")


def test_json_is_plain(study):
  assert json.loads((study.path / "study.json").read_text())["seconds"] == 0.8


@pytest.mark.parametrize("match", ["name", "order", "none"])
def test_clips_are_drawn_by_the_seed_and_training_takes_what_is_left(match):
  systems = ("real", "ours")
  prefix = {s: f"{s}/" if match == "none" else "" for s in systems}
  files = {}
  for system in systems:
    for i in range(30):
      versions = files.setdefault(f"{prefix[system]}{i:02d}", {})
      versions[system] = f"{system} {i}"
  settings = small_settings(match=match, clips_per_system=20, training=4)
  drawn = []
  for seed in (0, 0, 1):
    rng = np.random.default_rng(seed)
    training, rated = choose(files, systems, settings, rng)
    # Of sources with one version, each system has two in turn.
    if match == "none":
      turns = [name for v in training.values() for name in v]
      assert turns[:2] == turns[2:] and set(turns) == set(systems)
    assert not training.keys() & rated.keys()
    for system in systems:
      assert sum(system in versions for versions in rated.values()) == 20
    drawn.append(sorted(rated))
  assert drawn[0] == drawn[1] != drawn[2]
  # Not the first of a folder, which are often of one kind.
  assert drawn[0] != sorted(files)[: len(drawn[0])]


def test_training_takes_counted_clips_only_where_there_are_no_others(caplog):
  files = {f"{i:02d}": {"real": "a", "ours": "b"} for i in range(20)}
  settings = small_settings(clips_per_system=20, training=3)
  rng = np.random.default_rng(0)
  training, rated = choose(files, ("real", "ours"), settings, rng)
  assert (len(training), len(rated)) == (3, 17)
  assert "give 23 of each" in caplog.text


def test_a_language_is_its_files(tmp_path):
  own = tmp_path / "own"
  own.mkdir()
  for name in texts.names(["opinion"]):
    words = (texts.INCLUDED / f"{name}_en.txt").read_text()
    (own / f"{name}_fr.txt").write_text(words.replace("English", "Français"))
  target = tmp_path / "texts"
  copies = texts.copy_texts(own, target, ["fr"], ["opinion"])
  assert [c.name for c in copies] == [
    "labels_fr.txt", "consent_fr.txt", "instructions_opinion_fr.txt",
  ]  # fmt: skip
  assert texts.labels(target, "fr")["name"] == "Français"
  with pytest.raises(ValueError, match=r"there is no .*instructions_turing_fr"):
    texts.copy_texts(own, target, ["fr"], ["turing"])
  labels = own / "labels_fr.txt"
  labels.write_text(labels.read_text().replace("begin:", "start:"))
  with pytest.raises(ValueError, match="lacks begin"):
    texts.copy_texts(own, target, ["fr"], ["opinion"])


def test_the_texts_of_a_study_are_part_of_its_record(study):
  found = {p.name: file_sha256(p) for p in (study.path / "texts").iterdir()}
  assert study.texts == found and len(found) == 3 * 5


def test_clips_are_matched_by_name_if_any_name_occurs_twice(tmp_path):
  frames, sound = (
    flash_frames(np.arange(3) / 10, 16, 16),
    click_track(0.3, 8000),
  )
  for system, names in {"real": "ab", "same": "bc", "other": "xy"}.items():
    for name in names:
      (tmp_path / system).mkdir(exist_ok=True)
      write(tmp_path / system / f"{name}.mp4", frames, audio=sound)

  def found(*systems):
    folders = {system: tmp_path / system for system in systems}
    return find_sources(folders, small_settings())

  assert {n: set(v) for n, v in found("real", "same").items()} == {
    "a": {"real"}, "b": {"real", "same"}, "c": {"same"},
  }  # fmt: skip
  assert [set(v) for v in found("real", "other").values()] == [
    {"real", "other"}
  ] * 2
