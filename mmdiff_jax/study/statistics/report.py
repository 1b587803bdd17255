"""The report of a study: report.html, report.md, report.tex, results.json."""

import dataclasses
import html
import logging
import math
import os
import pathlib
from typing import Any

import numpy as np

from mmdiff_jax.disk.files import check_directory, replacing, write_json
from mmdiff_jax.disk.leftovers import remove_leftovers
from mmdiff_jax.pages import frame, plots
from mmdiff_jax.pages.plots import show
from mmdiff_jax.pages.tables import Table
from mmdiff_jax.study.folder import ANSWERS, Study, load_study
from mmdiff_jax.study.settings import SCALES
from mmdiff_jax.study.statistics.agreement import alpha
from mmdiff_jax.study.statistics.bootstrap import TooFewError
from mmdiff_jax.study.statistics.detection import detect, real_rate
from mmdiff_jax.study.statistics.exclusion import Verdict, judge, self_agreement
from mmdiff_jax.study.statistics.methods import methods
from mmdiff_jax.study.statistics.opinion import opinions
from mmdiff_jax.study.statistics.pairs import preferences, win_table
from mmdiff_jax.study.statistics.power import spreads as spreads_of
from mmdiff_jax.study.statistics.votes import Votes, load_votes
from mmdiff_jax.study.store import answered

_LOGGER = logging.getLogger(__name__)
_ALPHA_DRAWS = 200


@dataclasses.dataclass
class _Section:
  """One task's part of the report; with a problem, raters are all it has."""

  title: str
  tables: list[Table]
  pictures: list[str]
  results: dict[str, Any]
  problem: str = ""


def report(
  path: str | os.PathLike, output: str | os.PathLike, draws: int = 1000
) -> pathlib.Path:
  """Analyses a study's answers.

  Args:
    path: folder of the study.
    output: folder of the report.
    draws: of the bootstrap.

  Returns:
    The path of report.html.

  Raises:
    ValueError: if nobody has answered, or too few are left in every task.
  """
  study, output = load_study(path), pathlib.Path(output)
  check_directory(output)
  remove_leftovers(output)
  if draws < 100:
    raise ValueError(f"--draws={draws}: intervals need at least 100.")
  with answered(study.path / ANSWERS) as store:
    votes = load_votes(study, store)
    lengths = {r.rater: len(study.slots[r.slot].trials) for r in store.raters()}
    sentences = methods(study, store)
    last_hash = store.last_hash()
  sections = [
    _section(
      study, votes[task], lengths, draws,
      np.random.default_rng([study.settings.seed, number]),
    )
    for number, task in enumerate(SCALES)
    if task in votes
  ]  # fmt: skip
  problems = [f"{s.title}: {s.problem}" for s in sections if s.problem]
  if len(problems) == len(sections):
    raise ValueError(" ".join(problems))
  for problem in problems:
    _LOGGER.warning("%s The report leaves it out.", problem)
  sentences.append(
    f"The last answer bears the hash {last_hash[:16]}, into which all before "
    "it went."
  )
  return _write(study, sentences, sections, output)


def _section(
  study: Study,
  votes: Votes,
  lengths: dict[str, int],
  draws: int,
  rng: np.random.Generator,
) -> _Section:
  verdicts = judge(votes, lengths, study.settings.exclusion)
  kept = [v.rater for v in verdicts if not v.reasons]
  inside = votes.where(np.isin(votes.rater, kept))
  regular = inside.where(inside.kind == "regular")
  title, make = _TASKS[votes.task]
  section = _Section(title, [], [], {})
  if len(kept) < 2:
    section.problem = (
      f"{len(kept)} of {len(verdicts)} raters are left by the rules of "
      "exclusion; at least 2 are needed."
    )
  else:
    try:
      make(section, regular, draws, rng)
      section.tables.append(_agreement(regular, inside, section.results, rng))
    except TooFewError as error:
      section = _Section(title, [], [], {}, str(error))
  if section.problem:
    section.results["problem"] = section.problem
  section.tables.append(_raters(verdicts, section.results))
  return section


def _turing(
  section: _Section, votes: Votes, draws: int, rng: np.random.Generator
) -> None:
  found = detect(votes, draws, rng)
  real = real_rate(votes, draws, rng)
  rows = [["real", str(int((votes.system == "real").sum())), show(real),
           "–", "–", "–"]]  # fmt: skip
  rows += [
    [d.system, str(d.votes), show(d.fooled), show(d.d_prime),
     show(d.criterion), show(d.area)]
    for d in found
  ]  # fmt: skip
  table = Table(
    "Real or generated",
    ("system", "votes", "called real", "d′", "criterion", "ROC area"),
    rows,
    "Estimates [95 % intervals, for other raters and other clips]. d′ 0 and "
    "area 0.5: nobody can tell. Criterion above 0: raters lean to real.",
  )
  called = [("real", real), *((d.system, d.fooled) for d in found)]
  picture = plots.forest(
    "Share of votes that call the clip real",
    called, 0, 1, (0, 0.25, 0.5, 0.75, 1), 0.5,
  )  # fmt: skip
  section.results |= {
    "real_called_real": dataclasses.asdict(real),
    "systems": [dataclasses.asdict(d) for d in found],
  }
  section.tables.append(table)
  section.pictures.append(picture)


def _opinion(
  section: _Section, votes: Votes, draws: int, rng: np.random.Generator
) -> None:
  rows = opinions(votes, draws, rng)
  spreads = {
    scale: spreads_of(values, votes.system, votes.rater, votes.source)
    for scale, values in votes.values.items()
  }
  table = Table(
    "Opinion scores",
    ("scale", "system", "votes", "mean score", "higher than real"),
    [
      [o.scale, o.system, str(o.votes), show(o.score), show(o.against_real)]
      for o in rows
    ],
    "Higher than real: the chance that a clip gets a higher score than a real "
    "one, ties counting half; 0.5 where they are alike. It takes scores as "
    "ordered, not as measured. Standard deviations in points: "
    + "; ".join(
      f"{scale}: raters {s['rater']:.2f}, sources {s['source']:.2f}, single "
      f"votes {s['noise']:.2f}"
      for scale, s in spreads.items()
    )
    + ".",
  )
  section.tables.append(table)
  for scale in SCALES["opinion"]:
    own = [o for o in rows if o.scale == scale]
    named = [(o.system, o.score) for o in own]
    section.pictures += [
      plots.forest(f"Mean score: {scale}", named, 1, 5, (1, 2, 3, 4, 5)),
      plots.shares(
        f"Shares of the scores 1 to 5: {scale}",
        [(o.system, o.shares) for o in own],
      ),
    ]
  section.results |= {
    "scores": [dataclasses.asdict(o) for o in rows],
    "spreads": spreads,
  }


def _preference(
  section: _Section, votes: Votes, draws: int, rng: np.random.Generator
) -> None:
  found = sorted(
    preferences(votes, draws, rng), key=lambda s: -s.strength.value
  )
  wins = win_table(votes)
  section.tables += [
    Table(
      "Preference",
      ("system", "log strength", "preferred", "undecided"),
      [
        [s.system, show(s.strength), f"{s.preferred:.2f}",
         f"{s.undecided:.2f}"]
        for s in found
      ],
      "Bradley and Terry's model, no difference as half a win for either.",
    ),
    Table(
      "Preferences by pair",
      ("first", "second", "first better", "no difference", "second better"),
      [[*pair, *map(str, counts)] for pair, counts in wins.items()],
    ),
  ]  # fmt: skip
  ends = [v for s in found for v in (s.strength.low, s.strength.high)]
  reach = math.ceil(max(1.0, *map(abs, ends)))
  picture = plots.forest(
    "Log strength (0: the mean of all systems)",
    [(s.system, s.strength) for s in found],
    -reach, reach, range(-reach, reach + 1), 0,
  )  # fmt: skip
  section.results |= {
    "strengths": [dataclasses.asdict(s) for s in found],
    "pairs": [[*pair, *counts] for pair, counts in wins.items()],
  }
  section.pictures.append(picture)


_TASKS = {
  "turing": ("Real or generated?", _turing),
  "opinion": ("Opinion scores", _opinion),
  "preference": ("Preference", _preference),
}


def _agreement(
  regular: Votes, inside: Votes, results: dict, rng: np.random.Generator
) -> Table:
  found = {s: alpha(regular, s, _ALPHA_DRAWS, rng) for s in regular.values}
  again = self_agreement(inside)
  results["alpha"] = {
    scale: dataclasses.asdict(value) if value else None
    for scale, value in found.items()
  }
  results["self_agreement"] = None if np.isnan(again) else again
  return Table(
    "Agreement",
    ("scale", "Krippendorff's alpha"),
    [[scale, show(value)] for scale, value in found.items()],
    "1: raters agree, 0: as by chance."
    + ("" if np.isnan(again) else f" Repeats answered alike: {again:.0%}."),
  )


def _raters(verdicts: list[Verdict], results: dict) -> Table:
  names = list(verdicts[0].facts)
  # Missing facts are null: JSON knows no nan.
  results["raters"] = [
    {
      "rater": v.rater,
      "reasons": v.reasons,
      **{k: None if np.isnan(f) else f for k, f in v.facts.items()},
    }
    for v in verdicts
  ]
  left_out = [v for v in verdicts if v.reasons]
  return Table(
    "Raters",
    ("rater", "left out", *(name.replace("_", " ") for name in names)),
    [
      [
        v.rater,
        ", ".join(v.reasons) or "no",
        *("–" if np.isnan(f) else f"{f:.2f}" for f in v.facts.values()),
      ]
      for v in verdicts
    ],
    f"{len(left_out)} of {len(verdicts)} raters are left out, by the rules "
    "stated under Method.",
  )


def _write(
  study: Study,
  sentences: list[str],
  sections: list[_Section],
  output: pathlib.Path,
) -> pathlib.Path:
  title = study.settings.title
  tables = [table for section in sections for table in section.tables]
  problems = [f"{s.title}: {s.problem}" for s in sections if s.problem]
  contents = {
    "report.md": "\n\n".join(
      [
        f"# {title}",
        "## Method",
        " ".join(sentences),
        *problems,
        "\n".join(table.markdown() for table in tables),
      ]
    ),
    "report.tex": "\n".join(table.latex() for table in tables),
    "report.html": _page(study, sentences, sections),
  }
  for name, text in contents.items():
    with replacing(output / name) as temporary:
      pathlib.Path(temporary).write_text(text, encoding="utf-8")
  write_json(
    output / "results.json",
    {section.title: section.results for section in sections},
  )
  return output / "report.html"


def _page(study: Study, sentences: list[str], sections: list[_Section]) -> str:
  height, width = study.size
  header = frame.paragraph(
    f"{len(study.clips)} clips of {width} × {height}, {study.seconds:.2f} s; "
    f"{len(study.slots)} places; seed {study.settings.seed}; sealed truth "
    f"{study.truth_sha256[:16]}…",
    "note",
  )
  body = ["<h2>Method</h2>", frame.paragraph(" ".join(sentences))]
  for section in sections:
    body.append(f"<h2>{html.escape(section.title)}</h2>")
    if section.problem:
      body.append(frame.paragraph(section.problem, "warning"))
    for number, table in enumerate(section.tables):
      if number:
        body.append(f"<h3>{html.escape(table.title)}</h3>")
      body.append(table.html())
      if table.note:
        body.append(frame.paragraph(table.note, "note"))
      if not number:
        body += section.pictures
  title = f"{study.settings.title}: report"
  return frame.document(
    title, "\n".join(body), header=header, body_class="report"
  )
