"""The study's web pages.

  /                  consent and start
  /s/TOKEN           a rater's session; the same link continues it
  /admin/TOKEN       counts, raters, exports

Everything comes from this server, and pages use relative addresses, so that
it works below any path of a proxy (`root_path`).
"""

import logging
import sqlite3
from typing import Annotated

from fastapi import FastAPI, Form, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import (
  FileResponse,
  HTMLResponse,
  JSONResponse,
  RedirectResponse,
  Response,
)
from pydantic import BaseModel, StrictBool, StrictInt
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmdiff_jax.disk.files import file_sha256
from mmdiff_jax.study import texts
from mmdiff_jax.study.folder import ANSWERS, TEXTS, TOKEN, Study, load_study
from mmdiff_jax.study.serving.admin import add_admin
from mmdiff_jax.study.serving.conduct import Conduct, Refused
from mmdiff_jax.study.serving.guard import Guard, Limit, refusal
from mmdiff_jax.study.serving.templates import WEB, page
from mmdiff_jax.study.serving.tones import tones_wav
from mmdiff_jax.study.store import Store, open_checked

_LOGGER = logging.getLogger(__name__)
_STATIC = {"study.js": "text/javascript", "study.css": "text/css"}
_HEADERS = {
  "Content-Security-Policy": (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "media-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'self'; frame-ancestors 'none'"
  ),
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
}


class Tones(BaseModel):
  """Body of /api/tones."""

  count: StrictInt


class Play(BaseModel):
  """Body of /api/play."""

  trial: StrictInt
  side: StrictInt


class Vote(BaseModel):
  """Body of /api/vote."""

  trial: StrictInt
  clips: list[str]
  answers: dict[str, StrictInt]
  fault: StrictBool


# The rater's token; in a header it appears in no proxy's log of addresses.
Token = Annotated[str, Header(alias="X-Token")]


def create_app(
  study: Study, store: Store, root_path: str = "", per_client: int = 3
) -> FastAPI:
  """The application of one study.

  Args:
    study: as built.
    store: where answers go.
    root_path: path below which a proxy serves it.
    per_client: places that one address may take in an hour, without an
      invitation. Where there are invitations, nobody begins without one.
  """
  app = FastAPI(
    title=study.settings.title,
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
  )
  app.add_middleware(_Below, root_path=root_path)
  app.add_middleware(Guard)
  app.add_middleware(_SafeHeaders)
  _answer_refusals(app)
  conduct = Conduct(study, store)
  # Routes are tried in this order: the most frequent ones first.
  _add_api(app, conduct)
  _add_media(app, study, conduct)
  _add_pages(app, study, conduct, Limit(per_client))
  add_admin(app, study, store)
  return app


def _answer_refusals(app: FastAPI) -> None:
  @app.exception_handler(Refused)
  async def refused(request: Request, error: Refused) -> JSONResponse:
    return refusal(error)

  @app.exception_handler(RequestValidationError)
  async def malformed(
    request: Request, error: RequestValidationError
  ) -> JSONResponse:
    # Where, and not what: that may hold anything.
    places = sorted({str(e["loc"][-1]) for e in error.errors()})
    return refusal(Refused(422, f"Missing or of a wrong type: {places}."))

  @app.exception_handler(sqlite3.Error)
  async def unwritten(request: Request, error: sqlite3.Error) -> JSONResponse:
    # Locked or full: nothing was written, and pages try again.
    _LOGGER.error("answers cannot be read or written: %s", error)
    answer = refusal(Refused(503, "Your answer could not be saved yet."))
    answer.headers["Retry-After"] = "2"
    return answer


class _SafeHeaders:
  """Adds `_HEADERS` to every answer, and keeps it out of caches by default."""

  def __init__(self, app: ASGIApp):
    self._app = app

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    async def with_headers(message: Message) -> None:
      if message["type"] == "http.response.start":
        headers = MutableHeaders(scope=message)
        headers.update(_HEADERS)
        headers.setdefault("Cache-Control", "no-store")
      await send(message)

    await self._app(scope, receive, with_headers)


class _Below:
  """Serves below a path, whether the proxy strips it or keeps it."""

  def __init__(self, app: ASGIApp, root_path: str):
    self._app, self._root = app, root_path

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
      path = scope["path"]
      if not path.startswith(f"{self._root}/"):
        path = self._root + path
      scope = {**scope, "path": path, "root_path": self._root}
    await self._app(scope, receive, send)


def _add_pages(
  app: FastAPI, study: Study, conduct: Conduct, limit: Limit
) -> None:
  settings, folder = study.settings, study.path / TEXTS
  # A study's own texts may be older than the program.
  words = texts.labels(texts.INCLUDED, "en")
  labels = {
    code: words | texts.labels(folder, code) for code in settings.languages
  }

  def welcome(
    request: Request, language: str, invitation: str = ""
  ) -> HTMLResponse:
    language = _language(request, language, settings.languages)
    return page(
      request,
      "start.html",
      title=settings.title,
      language=language,
      languages={code: labels[code]["name"] for code in labels},
      labels=labels[language],
      consent=texts.paragraphs(folder, "consent", language),
      invitation=invitation,
      open=invitation or not conduct.store.invitations(),
    )

  @app.get("/")
  def landing(request: Request, language: str = "") -> HTMLResponse:
    return welcome(request, language)

  @app.post("/start")
  def start(
    request: Request,
    language: Annotated[str, Form()],
    consent: Annotated[str, Form()] = "",
    invitation: Annotated[str, Form()] = "",
  ) -> RedirectResponse:
    if consent != "yes":
      raise Refused(422, "Nobody takes part without consent.")
    if not invitation:
      if conduct.store.invitations():
        raise Refused(403, words["invited"])
      limit.count(request.client.host if request.client else "")
    token = conduct.start(language, invitation)
    base = request.scope.get("root_path", "")
    return RedirectResponse(f"{base}/s/{token}", 303)

  @app.get("/s/{token}")
  def session(request: Request, token: str, language: str = "") -> HTMLResponse:
    if conduct.awaits(token):
      return welcome(request, language, token)
    rater = conduct.rater(token)
    task, language = conduct.slot(rater).task, rater.language
    return page(
      request,
      "session.html",
      title=settings.title,
      language=language,
      labels=labels[language],
      scales=texts.scales(task, labels[language]),
      instructions=texts.paragraphs(folder, f"instructions_{task}", language),
      token=token,
      task=task,
      height=study.size[0],
      width=study.size[1],
    )


def _language(request: Request, asked: str, known: tuple[str, ...]) -> str:
  """The language asked for, else the browser's first that there is."""
  accepted = request.headers.get("accept-language", "").lower()
  wanted = [asked] + [part.strip()[:2] for part in accepted.split(",")]
  return next((code for code in wanted if code in known), known[0])


def _add_media(app: FastAPI, study: Study, conduct: Conduct) -> None:
  @app.get("/static/{name}")
  def static(name: str) -> FileResponse:
    if name not in _STATIC:
      raise Refused(404, f"There is no {name}.")
    return FileResponse(WEB / name, media_type=_STATIC[name])

  @app.get("/favicon.ico")
  def icon() -> Response:
    return Response(status_code=204)

  @app.get("/clips/{clip}.mp4")
  def clip_file(clip: str) -> FileResponse:
    if clip not in study.clips:
      raise Refused(404, "There is no such clip.")
    # FileResponse answers range requests, which Safari insists on.
    return FileResponse(
      study.clip_path(clip),
      media_type="video/mp4",
      headers={"Cache-Control": "private, max-age=86400"},
    )

  @app.get("/tones/{token}/{attempt}.wav")
  def tones(token: str, attempt: int) -> Response:
    # The attempt only keeps browsers from playing the last one again.
    wav = tones_wav(conduct.number_of_tones(token))
    return Response(wav, media_type="audio/wav")


def _add_api(app: FastAPI, conduct: Conduct) -> None:
  @app.get("/api/state")
  def state(token: Token) -> dict:
    return conduct.state(token)

  @app.post("/api/tones")
  def hear(token: Token, body: Tones) -> dict:
    return {"right": conduct.hear(token, body.count)}

  @app.post("/api/play")
  def play(token: Token, body: Play) -> dict:
    conduct.play(token, body.trial, body.side)
    return {}

  @app.post("/api/vote")
  def vote(token: Token, body: Vote) -> dict:
    conduct.vote(token, body.trial, body.clips, body.answers, body.fault)
    return conduct.state(token)


def serve(
  path: str, host: str, port: int, root_path: str = "", per_client: int = 3
) -> None:
  """Serves a study until interrupted.

  Args:
    path: folder of the study.
    host: address to listen at.
    port: likewise.
    root_path: path below which a proxy serves it.
    per_client: see `create_app`.

  Raises:
    ValueError: if there is no study, the root path is malformed, or the
      answers are damaged.
  """
  import uvicorn

  if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
    raise ValueError(
      f"--root_path={root_path}: give it as /study, or leave it out."
    )
  study = load_study(path)
  for name, digest in study.texts.items():
    if file_sha256(study.path / TEXTS / name) != digest:
      _LOGGER.warning(
        "%s was changed after the study was built: say so in its report.",
        study.path / TEXTS / name,
      )
  store = open_checked(study.path / ANSWERS)
  app = create_app(study, store, root_path, per_client)
  secret = (study.path / TOKEN).read_text().strip()
  invited = store.invitations()
  entry = (
    f"by {invited} invitations"
    if invited
    else (
      f"open to anybody, {per_client} places an hour for one address (`study "
      "invite` makes links that let nobody else in)"
    )
  )
  _LOGGER.info("raters: http://%s:%d%s/, %s", host, port, root_path, entry)
  _LOGGER.info("admin:  http://%s:%d%s/admin/%s", host, port, root_path, secret)
  # No access log: it would keep the raters' addresses.
  uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False)
  store.close()
