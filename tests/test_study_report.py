"""Simulated raters answer a study; the report finds what was put in."""

import contextlib
import csv
import dataclasses
import html.parser
import json
import shutil

import numpy as np
import pytest

from mmdiff_jax.pages.tables import Table
from mmdiff_jax.study.export import export, votes_rows
from mmdiff_jax.study.folder import ANSWERS, Slot, load_study, write_study
from mmdiff_jax.study.serving import simulate
from mmdiff_jax.study.settings import Exclusion, TaskSettings
from mmdiff_jax.study.statistics.exclusion import judge
from mmdiff_jax.study.statistics.report import report
from mmdiff_jax.study.statistics.votes import load_votes
from mmdiff_jax.study.store import Store
from mmdiff_jax.study.store import answered as answered_store
from tests.command_line import call
from tests.study_fixtures import build_small


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
  study = build_small(tmp_path_factory.mktemp("answered"))
  simulate.answer(study.path, len(study.slots))
  output = study.path / "report"
  page = report(study.path, output, draws=200)
  results = json.loads((output / "results.json").read_text())
  return study, page, results


def test_systems_are_ranked_as_they_are(answered):
  _, _, results = answered
  turing = results["Real or generated?"]
  # In the alphabet bad comes before good, so that "bad" is the better one.
  better, worse = turing["systems"]
  assert (better["system"], worse["system"]) == ("bad", "good")
  assert better["fooled"]["value"] > worse["fooled"]["value"]
  assert better["d_prime"]["value"] < worse["d_prime"]["value"]
  order = [s["system"] for s in results["Preference"]["strengths"]]
  assert order == ["real", "bad", "good"]
  for scale in ("video", "audio", "match"):
    scores = [
      s["score"]["value"]
      for s in results["Opinion scores"]["scores"]
      if s["scale"] == scale
    ]
    assert scores == sorted(scores, reverse=True)


def test_the_reports_rates_are_those_of_the_export(answered):
  study, _, results = answered
  store = Store(study.path / ANSWERS)
  rows = votes_rows(store)
  store.close()
  left_out = {
    r["rater"] for r in results["Real or generated?"]["raters"] if r["reasons"]
  }
  truth = json.loads((study.path / "truth.json").read_text())["clips"]
  said = [
    row["value"] <= 3
    for row in rows
    if row["task"] == "turing"
    and row["kind"] == "regular"
    and row["rater"] not in left_out
    and truth[row["clips"]]["system"] == "good"
  ]
  (good,) = (
    s for s in results["Real or generated?"]["systems"] if s["system"] == "good"
  )
  assert good["votes"] == len(said)
  assert good["fooled"]["value"] == pytest.approx(np.mean(said))


class _Parser(html.parser.HTMLParser):
  def __init__(self, text):
    super().__init__()
    self.tags, self.open = [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    if tag not in ("meta", "link", "line", "circle", "rect"):
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def test_the_page_is_whole_and_alone(answered):
  _, page, _ = answered
  text = page.read_text(encoding="utf-8")
  parsed = _Parser(text)
  assert not parsed.open
  assert parsed.tags.count("svg") == 1 + 6 + 1
  assert parsed.tags.count("table") == 3 * 3 + 1
  assert "://" not in text and "<script" not in text
  assert "default-src 'none'" in text and "script-src" not in text
  markdown = page.with_name("report.md").read_text()
  latex = page.with_name("report.tex").read_text()
  # One heading more, of the paragraph on the method.
  assert markdown.count("\n## ") - 1 == latex.count(r"\toprule") == 10
  assert "36 people agreed to take part" in text and "36 people" in markdown
  assert "failed traps at most 0.5" in text


def unanswered(study, folder):
  """A copy without answers, whose rules leave nobody out."""
  rules = Exclusion(0.0, 1.0, 1.0, 9.0, 0.0, 1.0)
  settings = dataclasses.replace(study.settings, exclusion=rules)
  copy = dataclasses.replace(study, path=folder / "study", settings=settings)
  shutil.copytree(study.path, copy.path)
  for file in copy.path.glob("answers.db*"):
    file.unlink()
  write_study(copy)
  return copy


def test_a_task_with_too_few_raters_is_named_and_the_others_reported(
  answered, tmp_path, caplog
):
  study = unanswered(answered[0], tmp_path)
  # Places take turns over three tasks: the third has one rater.
  simulate.answer(study.path, 5)
  page = report(study.path, tmp_path / "report", draws=100)
  results = json.loads(page.with_name("results.json").read_text())
  assert results["Real or generated?"]["systems"]
  assert results["Opinion scores"]["scores"]
  assert set(results["Preference"]) == {"problem", "raters"}
  words = "1 of 1 raters are left by the rules of exclusion"
  assert words in results["Preference"]["problem"] in page.read_text()
  assert f"Preference: {words}" in page.with_name("report.md").read_text()
  assert words in caplog.text
  with contextlib.closing(Store(study.path / ANSWERS)) as store:
    assert store.last_hash()[:16] in page.read_text()


def test_without_enough_raters_in_any_task_there_is_no_report(
  answered, tmp_path
):
  study = unanswered(answered[0], tmp_path)
  simulate.answer(study.path, 2)
  with pytest.raises(ValueError, match="generated.*1 of 1.*scores: 1 of 1"):
    report(study.path, tmp_path / "report", draws=100)
  assert not list((tmp_path / "report").glob("*"))


def test_latex_and_markdown_escape():
  table = Table("50 % & more", ("a_b", "c|d"), [["x#1", "–"]], "")
  assert r"50 \% \& more" in table.latex() and r"a\_b & c|d" in table.latex()
  assert r"| a_b | c\|d |" in table.markdown()


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
  """Many raters of blocks of the default's size on few clips."""
  folder = tmp_path_factory.mktemp("planted")
  study = build_small(folder)
  rng = np.random.default_rng(0)
  from mmdiff_jax.study.building.design import Stimulus, slot_trials

  truth = json.loads((study.path / "truth.json").read_text())["clips"]
  shown = {}
  # Not by their ids, which chance gave.
  for clip, what in sorted(truth.items(), key=lambda item: str(item[1])):
    stimulus = Stimulus((clip,), what["system"], what["source"])
    shown.setdefault(bool(what["trap"]), []).append(stimulus)
  slots = []
  for number in range(72):
    task = ("turing", "opinion")[number % 2]
    block = [shown[False][i] for i in rng.permutation(len(shown[False]))]
    trials = slot_trials(block, [], shown[True], 0.1, 0.05, rng)
    slots.append(Slot(task, tuple(trials)))
  tasks = {n: TaskSettings(5, 36) for n in ("turing", "opinion")}
  settings = dataclasses.replace(study.settings, tasks=tasks)
  study = dataclasses.replace(study, slots=tuple(slots), settings=settings)
  write_study(study)
  simulate.answer(study.path, 72, cheaters=36)
  return load_study(study.path)


def test_planted_cheaters_are_found_and_honest_raters_kept(planted):
  store = Store(planted.path / ANSWERS)
  votes = load_votes(planted, store)
  raters = store.raters()
  store.close()
  lengths = {r.rater: len(planted.slots[r.slot].trials) for r in raters}
  manner = {}
  for rater in raters:
    cheat = simulate.CHEATS[rater.slot % 3] if rater.slot < 36 else "honest"
    manner[rater.rater] = cheat
  caught = {}
  for own in votes.values():
    for verdict in judge(own, lengths, planted.settings.exclusion):
      caught.setdefault(manner[verdict.rater], []).append(bool(verdict.reasons))
  assert {name: len(found) for name, found in caught.items()} == {
    "random": 12, "constant": 12, "hasty": 12, "honest": 36,
  }  # fmt: skip
  assert all(caught["constant"]) and all(caught["hasty"])
  assert np.mean(caught["random"]) >= 0.75
  assert np.mean(caught["honest"]) <= 0.1


def test_exports_hold_every_answer_and_the_truth_when_asked(answered, tmp_path):
  study, _, _ = answered
  store = Store(study.path / ANSWERS)
  votes = store.events(kind="vote")
  store.close()
  assert len(votes) == sum(len(slot.trials) for slot in study.slots)
  expected = sum(len(event.data["answers"]) for event in votes)
  assert export(study.path, tmp_path / "a.csv") == expected
  assert export(study.path, tmp_path / "b.json", truth=True) == expected
  with open(tmp_path / "a.csv", newline="") as file:
    plain = list(csv.DictReader(file))
  full = json.loads((tmp_path / "b.json").read_text())
  truth = json.loads((study.path / "truth.json").read_text())["clips"]
  for row, more in zip(plain, full, strict=True):
    assert row == {key: str(more[key]) for key in row}
    shown = [truth[clip] for clip in more["clips"].split()]
    assert more["systems"] == "|".join(clip["system"] for clip in shown)
    assert bool(more["trap"]) == (more["kind"] == "trap")


def test_a_study_without_answers_is_named(tmp_path):
  Store(tmp_path / "empty.db").close()
  for name in ("empty.db", "none.db"):
    with (
      pytest.raises(ValueError, match="no answers yet"),
      answered_store(tmp_path / name),
    ):
      pass
  assert not (tmp_path / "none.db").exists()


def test_simulated_answers_are_never_mixed_with_others(answered):
  study, _, _ = answered
  with pytest.raises(ValueError, match="never mixed"):
    simulate.answer(study.path, 1)


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
  """Runs a command of studies: returns its status, stdout and stderr."""
  monkeypatch.chdir(tmp_path)

  def run(*arguments):
    return call("study", *arguments), *capsys.readouterr()

  return run


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ("build --real=x --fake=y --output=z", "give NAME=DIR"),
    ("build --real=x --fake=a=y --output=z", "no such directory"),
    ("build --real=x --fake=real=y --output=z", "other than 'real'"),
    ("build --real=x --fake=a=y --output=z --preset=w", "no such preset"),
    ("serve nowhere", "holds no study.json"),
    ("report nowhere", "holds no study.json"),
    ("export nowhere --output=x.csv", "holds no study.json"),
    ("plan --raters=1", "at least 2"),
    ("plan --pilot=nowhere", "holds no study.json"),
    ("simulate nowhere", "holds no study.json"),
  ],
)
def test_mistakes_are_one_line(run, arguments, words):
  status, out, err = run(*arguments.split())
  assert (status, out) == (1, "")
  assert err.startswith("error: ") and words in err
  assert len(err.splitlines()) == 1


def test_a_plan_takes_its_spreads_from_a_pilot(run, answered):
  study, _, _ = answered
  status, out, _ = run("plan", f"--pilot={study.path}", "--clips=50")
  assert status == 0
  _, plain, _ = run("plan", "--clips=50")
  assert out.splitlines()[0] == plain.splitlines()[0]
  assert out.splitlines()[1:] != plain.splitlines()[1:]


def test_the_plan_is_printed(run):
  status, out, _ = run("plan", "--clips", "50", "--raters", "10,20")
  assert status == 0 and "| 20 | 8.0 |" in out
