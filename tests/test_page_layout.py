"""Every kind of page fits its window, light and dark, and runs no name."""

import json
import shutil

import numpy as np
import pytest

from mmdiff_jax.evaluation import compare, memorisation
from mmdiff_jax.evaluation.clip_sets import open_clips
from mmdiff_jax.evaluation.evaluate import evaluate
from mmdiff_jax.evaluation.report import page as report
from mmdiff_jax.evaluation.report import sheet
from mmdiff_jax.gallery import make_gallery
from mmdiff_jax.world.clips import make_clip, split_seed
from tests import browser
from tests.gallery_fixtures import SPEC, make_run, write_clip

pytestmark = pytest.mark.skipif(
  browser.CHROMIUM is None, reason="needs chromium"
)

NAMES = (
  "<img src=x onerror=document.title=1>",
  "</script><svg onload=document.title=1>",
  "long_name_" * 20,
  "\u821e \u00e9t\u00e9",
)


def write_reports(root):
  """An evaluation, a comparison and a sheet of copies, of two folders."""
  settings = {"spec": SPEC, "cache_dir": None, "progress": False}
  content = evaluate(
    real=root / "real",
    fake=root / "fake",
    output=None,
    metrics=["av_synchrony"],
    **settings,
  )
  # The copies are made up: finding them takes a large network.
  rng = np.random.default_rng(0)
  ratio, reference = rng.random((2, 8))
  space = memorisation.Space(ratio, np.arange(8), reference, 0.5)
  spaces = {"pixel": space, "i3d": space, "mel": space}
  content["memorisation"] = memorisation.summary(spaces, "i3d")
  real, fake = (open_clips(root / side, SPEC) for side in ("real", "fake"))
  features = {side: {"mel": rng.random((8, 4))} for side in ("real", "fake")}
  output = root / "report.json"
  report.write(output, content, {"real": real, "fake": fake}, features)
  sheet.write(output, spaces, fake, real)
  compare.compare(
    real=root / "real",
    fakes={f"{name}1": root / "fake" for name in NAMES[:2]},
    output=root / "table.json",
    curve=True,
    metrics=["fad_mel", "av_synchrony"],
    **settings,
  )


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
  """One page of every kind, from files with hostile and long names."""
  root = tmp_path_factory.mktemp("pages")
  (root / "real").mkdir()
  (root / "fake").mkdir()
  for i in range(8):
    name = f"{NAMES[i] if i < len(NAMES) else i}.mp4".replace("/", "\u2044")
    write_clip(root / "real" / name, i)
    write_clip(root / "fake" / name, 8 + i)
  write_reports(root)
  source = root / "real" / f"{NAMES[0]}.mp4"
  (root / "runs").mkdir()
  for name, given in (("audio", ("audio", source)), ("joint", ())):
    (root / "runs" / name).mkdir()
    run = make_run(root / "runs" / name, *given)
    listing = json.loads((run / "samples.json").read_text())
    for entry, hostile in zip(listing["samples"], NAMES, strict=False):
      new = f"{hostile}.mp4".replace("/", "\u2044")
      (run / entry["file"]).rename(run / new)
      entry["file"] = new
      entry[hostile] = hostile
    (run / "samples.json").write_text(json.dumps(listing))
  (root / "bare").mkdir()
  shutil.copyfile(source, root / "bare" / "a.mp4")
  return {
    "gallery": make_gallery(root / "runs", onsets=True),
    "bare": make_gallery(root / "bare"),
    "report": root / "report.html",
    "memorisation": root / "report_memorisation.html",
    "comparison": root / "table.html",
  }


PAGES = ("gallery", "bare", "report", "memorisation", "comparison")

# What sticks out of the page; what scrolls in a box of its own may.
OUTSIDE = """[...document.body.querySelectorAll("*")].filter((element) => {
  if (element.closest(".scroll, svg, option, details:not([open])")) {
    return false;
  }
  const box = element.getBoundingClientRect();
  return box.width && (box.left < -0.5
    || box.right > document.documentElement.clientWidth + 0.5);
}).map((element) => element.outerHTML.slice(0, 200))"""

# Neighbours that lie on each other, apart from marks on their picture.
OVERLAPS = """[...document.body.querySelectorAll("*")].flatMap((parent) => {
  if (parent.closest("svg, select, .panel, .scroll")) return [];
  const shown = [...parent.children].filter((child) =>
    child.getBoundingClientRect().height > 0
    && !["sticky", "absolute"].includes(getComputedStyle(child).position)
    && getComputedStyle(child).display !== "inline");
  const boxes = shown.map((child) => child.getBoundingClientRect());
  return boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) =>
    a.left < b.right - 1 && b.left < a.right - 1
    && a.top < b.bottom - 1 && b.top < a.bottom - 1
  ).map(() => shown[i].outerHTML.slice(0, 200)));
})"""


@pytest.fixture(scope="module")
def viewer(tmp_path_factory):
  with browser.Browser(tmp_path_factory.mktemp("viewer")) as opened:
    yield opened


def set_scheme(viewer, scheme):
  feature = {"name": "prefers-color-scheme", "value": scheme}
  viewer.call("Emulation.setEmulatedMedia", features=[feature])


@pytest.mark.parametrize("width", [1280, 390, 320])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_runs_out_of_a_page_or_lies_on_another(
  pages, viewer, name, width
):
  viewer.set_size(width, 900)
  viewer.open(pages[name])
  root = "document.documentElement"
  assert viewer.evaluate(f"{root}.scrollWidth - {root}.clientWidth") <= 0
  assert viewer.evaluate(OUTSIDE) == []
  assert viewer.evaluate(OVERLAPS) == []


LIGHTNESS = """["backgroundColor", "color"].map((key) =>
  getComputedStyle(document.body)[key].match(/\\d+/g).slice(0, 3)
    .reduce((sum, value) => sum + Number(value), 0) / 3)"""


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_light_or_dark_as_its_reader_wants(
  pages, viewer, name, tmp_path
):
  viewer.set_size(390, 900)
  shots = {}
  for scheme in ("light", "dark"):
    set_scheme(viewer, scheme)
    viewer.open(pages[name])
    back, ink = viewer.evaluate(LIGHTNESS)
    assert (
      (back > 200 > 60 > ink) if scheme == "light" else (back < 60 < 200 < ink)
    )
    shots[scheme] = viewer.screenshot(tmp_path / f"{scheme}.png")
  # What is seen differs as well, not only what is computed.
  light, dark = (np.asarray(shots[s]).mean() for s in ("light", "dark"))
  assert light > dark + 60


@pytest.mark.parametrize("name", PAGES)
def test_names_run_nothing_on_a_page(pages, viewer, name):
  viewer.errors.clear()
  viewer.requests.clear()
  viewer.open(pages[name])
  viewer.wait("""players().every(media => {
    media.preload = "auto"; return media.videoWidth === 32; })""")
  assert viewer.errors == []
  assert {url.split(":")[0] for url in viewer.requests} <= {"file", "data"}
  assert viewer.evaluate("document.title") != "1"
  viewer.evaluate(
    "document.body.insertAdjacentHTML('beforeend', "
    "'<img src=data:, onerror=document.title=1>')"
  )
  viewer.wait("[...document.images].pop().complete")
  viewer.evaluate("fetch('http://localhost:9/').then(() => 0, () => 0)")
  assert viewer.evaluate("document.title") != "1"
  assert any("Content Security Policy" in error for error in viewer.errors)


@pytest.mark.parametrize("name", ["gallery", "report", "memorisation"])
def test_every_player_has_a_picture_before_it_is_played(pages, viewer, name):
  viewer.open(pages[name])
  sizes = viewer.evaluate("""Promise.all([...document.querySelectorAll("video")]
    .map(async (video) => {
      const poster = new Image();
      poster.src = video.poster;
      await poster.decode();
      return [poster.width, poster.height];
    }))""")
  assert len(sizes) >= 6 and set(map(tuple, sizes)) == {(32, 32)}


def test_a_report_runs_no_script_but_its_own(tmp_path, viewer):
  clip = make_clip(split_seed("tune", 0), SPEC)
  body = report.clip_figure(
    {"video": clip.video, "audio": clip.audio[:, 0]},
    SPEC,
    "<script>document.title = 'run'</script>",
  )
  path = tmp_path / "report.html"
  # As if a name had got through as HTML.
  report.write_page(path, "safe", [body, "<script>document.title = 1</script>"])
  viewer.errors.clear()
  viewer.open(path)
  viewer.wait("document.querySelector('video').videoWidth === 32")
  viewer.wait("!document.querySelector('video').controls")
  assert viewer.evaluate("document.title") == "safe"
  assert any("Content Security Policy" in error for error in viewer.errors)
