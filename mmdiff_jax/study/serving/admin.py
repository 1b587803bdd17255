"""The page of counts, raters and exports, behind a token."""

import secrets
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from mmdiff_jax.study.export import rows_csv, votes_rows
from mmdiff_jax.study.folder import TOKEN, Study
from mmdiff_jax.study.serving.conduct import Refused
from mmdiff_jax.study.serving.templates import page
from mmdiff_jax.study.store import Store


def add_admin(app: FastAPI, study: Study, store: Store) -> None:
  """Adds the page and its exports to a study's application."""
  secret = (study.path / TOKEN).read_text().strip()

  def check(token: str) -> None:
    if not secrets.compare_digest(token.encode(), secret.encode()):
      raise Refused(404, "There is no such page.")

  @app.get("/admin/{token}")
  def admin(request: Request, token: str) -> HTMLResponse:
    check(token)
    votes: dict[str, int] = {}
    for event in store.events(kind="vote"):
      votes[event.rater] = votes.get(event.rater, 0) + 1
    raters: list[dict[str, Any]] = []
    for rater in store.raters():
      slot = study.slots[rater.slot]
      raters.append({
        "rater": rater.rater,
        "slot": rater.slot,
        "task": slot.task,
        "language": rater.language,
        "votes": votes.get(rater.rater, 0),
        "of": len(slot.trials),
      })  # fmt: skip
    tasks = {
      task: _task_counts(study, raters, task) for task in study.settings.tasks
    }
    return page(
      request, "admin.html", title=study.settings.title, raters=raters,
      tasks=tasks, token=token,
    )  # fmt: skip

  @app.get("/admin/{token}/votes.csv")
  def as_csv(token: str) -> Response:
    check(token)
    return Response(rows_csv(votes_rows(store)), media_type="text/csv")

  @app.get("/admin/{token}/votes.json")
  def as_json(token: str) -> JSONResponse:
    check(token)
    return JSONResponse(votes_rows(store))


def _task_counts(
  study: Study, raters: list[dict[str, Any]], task: str
) -> dict[str, int]:
  own = [r for r in raters if r["task"] == task]
  return {
    "places": sum(slot.task == task for slot in study.slots),
    "taken": len({r["slot"] for r in own}),
    "finished": len({r["slot"] for r in own if r["votes"] == r["of"]}),
    "votes": sum(r["votes"] for r in own),
  }
