"""The gallery shows every clip in words, and survives odd folders."""

import base64
import html.parser
import json
import os
import shutil

import numpy as np
import pytest

from mmdiff_jax.gallery import make_gallery, words
from mmdiff_jax.media import reading
from mmdiff_jax.world.clips import make_clip, split_seed
from tests.gallery_fixtures import LOSSES, SPEC, make_run, write_clip


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
  return make_run(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def page(samples, tmp_path_factory):
  output = tmp_path_factory.mktemp("moved") / "gallery"
  return make_gallery(samples, output, onsets=True, title="Shapes & sounds")


class _Parser(html.parser.HTMLParser):
  def __init__(self, text):
    super().__init__()
    self.found = []
    self.text = []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))

  def handle_data(self, data):
    self.text.append(data)

  def all(self, tag, **wanted):
    return [
      attrs
      for name, attrs in self.found
      if name == tag
      and all(attrs.get(k.rstrip("_")) == v for k, v in wanted.items())
    ]


def parse(page):
  return _Parser(page.read_text(encoding="utf-8"))


def test_the_folder_holds_all_that_the_page_names(page):
  from urllib.parse import unquote

  parsed = parse(page)
  sources = [a["src"] for a in parsed.all("video") + parsed.all("img")]
  assert len(sources) == 6
  for source in sources:
    assert (page.parent / unquote(source)).stat().st_size > 0
  text = page.read_text(encoding="utf-8")
  assert "http://" not in text and "https://" not in text
  assert not parsed.all("script", src="") and not parsed.all("link", href="")


def values_of(parsed):
  return [json.loads(a["data-values"]) for a in parsed.all("li")]


def test_settings_and_facts_are_shown_as_text(page):
  parsed = parse(page)
  for shown in ("Shapes & sounds", "sample.sampler", "ddim", "</script>{{x}}"):
    assert shown in parsed.text
  values = values_of(parsed)
  assert [v["loss"] for v in values] == LOSSES
  assert values[2]["file"] == "sample_#2 & <b>.mp4"
  # What tells clips apart sorts them; the seed and the impacts are equal.
  options = page.read_text(encoding="utf-8").partition("<select")[2]
  assert "<option>loss</option>" in options
  assert "<option>seed</option>" not in options


def test_the_page_says_who_made_what_and_how(samples, tmp_path):
  text = " ".join(parse(make_gallery(samples, tmp_path)).text)
  title = "Picture and sound, made from nothing, by the model “shapes, step 10”"
  assert title in text
  assert "each 1.6 s, 16 frames of 32x32 at 10 fps, sound at" in text
  assert "sampler ddim, 50 steps; seed 7." in text
  assert "as samples.json lists them; no measure of quality" in text
  assert "How to read this page" in text


def test_the_clips_whose_impacts_agree_stand_first(samples, tmp_path):
  folder = shutil.copytree(samples, tmp_path / "samples")
  # Without sound nothing of the first clip can agree.
  reading.write_wav(folder / "sample_000000.wav", np.zeros((6400, 1)), 4000)
  values = values_of(parse(make_gallery(folder, onsets=True)))
  assert [v["loss"] for v in values] == [LOSSES[1], LOSSES[2], LOSSES[0]]
  assert [v["place"] for v in values] == [0, 1, 2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """A folder of runs: made for a given sound, and from nothing."""
  root = tmp_path_factory.mktemp("runs")
  (root / "from").mkdir()
  source = write_clip(root / "from" / "given.mp4", 5)
  for name, given in (("a2v", ("audio", source)), ("joint", ())):
    (root / name).mkdir()
    make_run(root / name, *given)
  return root


def test_what_is_made_from_nothing_stands_first(runs, tmp_path):
  page = make_gallery(runs, tmp_path)
  text = page.read_text(encoding="utf-8")
  headings = (
    "Picture and sound, made from nothing (joint)",
    "Pictures, made for a sound (a2v)",
  )
  places = [text.index(f"<h2>{heading}") for heading in headings]
  assert places == sorted(places)
  for name in ("a2v", "joint"):
    assert f'src="{name}/sample_000000.mp4"' in text
  assert text.count("<li class") == 2 * len(LOSSES)


def test_the_source_stands_beside_the_result(runs, tmp_path):
  page = make_gallery(runs, tmp_path)
  parsed = parse(page)
  results = [a["src"] for a in parsed.all("video")]
  assert len(results) == 3 * len(LOSSES)
  inside = [src for src in results if src.startswith("data:video/mp4;base64,")]
  assert len(inside) == len(LOSSES)
  path = tmp_path / "source.mp4"
  path.write_bytes(base64.b64decode(inside[0].partition(",")[2]))
  shown = reading.read_media(path).video.astype(int)
  given = reading.read_media(runs / "from" / "given.mp4").video.astype(int)
  assert shown.shape == given.shape and abs(shown - given).mean() < 3
  text = " ".join(parsed.text)
  assert "Source: its sound was used, its pictures were not." in text
  assert "1220202889" not in page.read_text(encoding="utf-8")
  # No clip of the folder's but those that were there: others read it, too.
  assert not list(tmp_path.glob("gallery/**/*.mp4"))


@pytest.mark.parametrize("fit, bars", [(None, True), ("crop", False)])
def test_the_source_is_fitted_as_when_sampling(tmp_path, fit, bars):
  source = tmp_path / "wide.mp4"
  white = np.full((SPEC.frames, SPEC.height, 2 * SPEC.width, 3), 255, np.uint8)
  reading.write_mp4(source, white, None, fps=SPEC.fps, sample_rate=None)
  folder = tmp_path / "v2a"
  folder.mkdir()
  make_run(folder, "video", source)
  listing = json.loads((folder / "samples.json").read_text())
  if fit is not None:
    listing["settings"]["geometry"] = {"fit": fit}
  (folder / "samples.json").write_text(json.dumps(listing))
  videos = [a["src"] for a in parse(make_gallery(folder)).all("video")]
  inside = next(src for src in videos if src.startswith("data:"))
  path = tmp_path / "shown.mp4"
  path.write_bytes(base64.b64decode(inside.partition(",")[2]))
  assert (reading.read_media(path).video[:, 0].mean() < 50) == bars


def test_a_source_that_is_another_file_now_is_not_shown(runs, tmp_path):
  folder = shutil.copytree(runs / "a2v", tmp_path / "a2v")
  source = write_clip(tmp_path / "given.mp4", 5)
  listing = folder / "samples.json"
  old = listing.read_text()
  listing.write_text(old.replace(str(runs / "from" / "given.mp4"), "given.mp4"))
  count = lambda: len(parse(make_gallery(folder)).all("video"))  # noqa: E731
  assert count() == 6  # Found above the folder, wherever the program runs.
  write_clip(source, 6)
  assert count() == 3
  assert "given.mp4 (not found here)" in " ".join(
    parse(folder / "index.html").text
  )


def test_the_upscaled_copy_stands_beside_the_clip(samples, tmp_path):
  folder = shutil.copytree(samples, tmp_path / "samples")
  large = np.zeros((16, 64, 64, 3), np.uint8)
  reading.write_mp4(folder / "large.mp4", large, fps=10.0)
  listing = json.loads((folder / "samples.json").read_text())
  listing["samples"][0]["upscaled"] = "large.mp4"
  (folder / "samples.json").write_text(json.dumps(listing))
  sources = [a["src"] for a in parse(make_gallery(folder)).all("video")]
  assert sources[:2] == ["sample_000000.mp4", "large.mp4"]


@pytest.mark.parametrize(
  ("record", "said"),
  [
    ({"index": 1220202889, "repairs": [], "known": ["audio"]}, "the sound"),
    ({"given": ["audio", "video"]}, "the sound and the pictures"),
  ],
)
def test_facts_are_words(record, said):
  assert words.facts(record) == {"known": said}


def test_facts_that_are_not_known_are_shown_by_their_names():
  record = {"name": "x", "label": 3, "a": {"b": [1, 2]}, "none": None}
  assert words.facts(record) == {"label": 3, "a.b": "1, 2"}
  assert words.facts({"repairs": ["cut", "silent"]}) == {
    "repaired": "cut, silent"
  }


@pytest.mark.parametrize(
  ("path", "name"),
  [
    ("/home/me/runs/mine", "mine"),
    ("runs/mine/checkpoints/10", "mine, step 10"),
    ("assets/shapes/checkpoint", "shapes"),
    ("gs://bucket/mine/", "mine"),
    ("checkpoint", "checkpoint"),
  ],
)
def test_a_model_is_called_by_its_run(path, name):
  assert words.model_name(path) == name


def test_marks_lie_at_the_impacts(page):
  parsed = parse(page)
  count = sum(
    len(make_clip(split_seed("tune", i), SPEC).impact_times) for i in range(3)
  )
  heard = parsed.all("div", class_="mark heard")
  assert len(heard) == len(parsed.all("div", class_="mark seen")) == count
  clip = make_clip(split_seed("tune", 0), SPEC)
  left = [float(a["style"].split(":")[1].rstrip("%")) for a in heard]
  expected = clip.impact_times / SPEC.duration * 100
  np.testing.assert_allclose(left[: len(expected)], expected, atol=0.5)
  values = values_of(parsed)
  assert sum(v["impacts matched"] for v in values) == count


def test_without_onsets_nothing_is_marked_and_the_folder_is_used(
  samples, tmp_path
):
  folder = shutil.copytree(samples, tmp_path / "samples")
  path = make_gallery(folder)
  assert path == folder / "index.html"
  parsed = parse(path)
  assert not parsed.all("button", id="marks") and not parsed.all(
    "div", class_="mark heard"
  )
  make_gallery(folder)  # its own pictures are no clips
  assert len(parse(path).all("video")) == 3


@pytest.mark.parametrize(
  ("listing", "said"),
  [
    (None, None),
    ("{broken", "samples.json cannot be read"),
    ("[1]", "samples.json holds no object"),
    ('{"samples": [{"seed": 1}, 3]}', None),
    ('{"samples": null, "settings": [1]}', None),
    ('{"samples": [{"file": "../secret.mp4"}]}', "../secret.mp4"),
  ],
)
def test_folders_without_a_sound_listing(samples, tmp_path, listing, said):
  folder = tmp_path / "folder"
  folder.mkdir()
  shutil.copyfile(samples / "sample_000000.mp4", folder / "a.mp4")
  shutil.copyfile(samples / "sample_000000.mp4", tmp_path / "secret.mp4")
  if listing is not None:
    (folder / "samples.json").write_text(listing)
  parsed = parse(make_gallery(folder))
  assert [a["src"] for a in parsed.all("video")] == ["a.mp4"]
  warning = " ".join(parsed.text)
  assert said is None or said in warning


def test_damaged_files_and_wavs(samples, tmp_path):
  (tmp_path / "bad.mp4").write_bytes(b"no video")
  wave = np.sin(np.arange(4000) / 3)[:, None].astype(np.float32)
  reading.write_wav(tmp_path / "alone.wav", wave, 4000)
  shutil.copyfile(samples / "sample_000000.mp4", tmp_path / "good.mp4")
  reading.write_wav(tmp_path / "good.wav", np.zeros((6400, 1)), 4000)
  parsed = parse(make_gallery(tmp_path, onsets=True))
  assert len(parsed.all("li")) == 3
  assert [a["src"] for a in parsed.all("audio")] == ["alone.wav"]
  assert [a["src"] for a in parsed.all("video")] == ["good.mp4"]
  assert any("damaged" in text for text in parsed.text)
  # The wav beside an mp4 is what is drawn and heard: silence here.
  values = values_of(parsed)
  good = next(v for v in values if v["file"] == "good.mp4")
  assert good["impacts heard"] == 0 < good["impacts seen"]


def test_names_that_are_no_text(samples, tmp_path):
  from urllib.parse import unquote_to_bytes

  folder = tmp_path / os.fsdecode(b"f\xff")
  folder.mkdir()
  for name in (b"z\xff.mp4", b"a\n<b>.mp4"):
    shutil.copyfile(samples / "sample_000000.mp4", folder / os.fsdecode(name))
  parsed = parse(make_gallery(folder))
  sources = [a["src"] for a in parsed.all("video") + parsed.all("img")]
  assert len(sources) == 4
  for source in sources:
    assert (folder / os.fsdecode(unquote_to_bytes(source))).is_file()
  assert "z\\udcff.mp4" in parsed.text


def test_a_folder_without_clips_is_refused(tmp_path):
  with pytest.raises(ValueError, match="no mp4 or wav"):
    make_gallery(tmp_path)
  with pytest.raises(ValueError, match="not a directory"):
    make_gallery(tmp_path / "absent")
