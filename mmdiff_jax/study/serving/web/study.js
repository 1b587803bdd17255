"use strict";
// The page shows what the server says is due. What counts is checked there:
// this script only spares raters the refusals.
const page = JSON.parse(document.getElementById("page").textContent);
const byId = (id) => document.getElementById(id);
const videos = [...document.querySelectorAll("video.clip")];
const buttons = [...document.querySelectorAll("button.play")];
const fields = [...document.querySelectorAll("fieldset")];
let state = null;
let ended = [];
let begun = false;

async function ask(path, body) {
  const options = { headers: { "X-Token": page.token } };
  if (body !== undefined) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  // A lost connection is tried again; a vote counts once however often it comes.
  for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
    try {
      const answer = await fetch(path, options);
      if (answer.status < 500) {
        tell("");
        return { ok: answer.ok, status: answer.status, body: await answer.json() };
      }
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
    }
    tell(page.labels.lost);
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

function tell(words) {
  byId("message").textContent = words;
  byId("message").hidden = !words;
}

function show(section) {
  for (const id of ["introduction", "tones", "trial"]) byId(id).hidden = id !== section;
  document.body.dataset.phase = section || state.phase;
}

async function refresh() {
  render((await ask("api/state")).body);
}

function render(next) {
  state = next;
  byId("progress").max = state.total;
  byId("progress").value = state.trial;
  byId("practice").hidden = !state.training;
  byId("place").textContent = state.phase === "trial"
    ? page.labels.progress.replace("{n}", state.trial + 1).replace("{total}", state.total) : "";
  if (state.phase === "done" || state.phase === "deaf") {
    show(null);
    tell(page.labels[state.phase]);
  } else if (!begun) {
    show("introduction");
  } else if (state.phase === "tones") {
    byId("attempts").textContent = state.attempts;
    byId("tone").src = `tones/${page.token}/${state.attempts}.wav`;
    show("tones");
  } else {
    showTrial();
  }
}

function showTrial() {
  show("trial");
  ended = videos.map(() => false);
  byId("answers").reset();
  for (const field of fields) field.disabled = true;
  videos.forEach((video, side) => {
    buttons[side].disabled = true;
    buttons[side].textContent = page.labels.loading;
    video.src = `clips/${state.clips[side]}.mp4`;
    video.load();
  });
  byId("ahead").replaceChildren(...state.ahead.map((clip) => {
    const video = document.createElement("video");
    video.preload = "auto";
    video.src = `clips/${clip}.mp4`;
    return video;
  }));
  update();
  window.scrollTo(0, 0);
}

function ready(side) {
  const playing = videos.some((video) => !video.paused && !video.ended);
  return videos[side].readyState >= 4 && !playing && (side === 0 || ended[side - 1]);
}

function update() {
  const all = ended.length > 0 && ended.every(Boolean);
  byId("hint").classList.toggle("over", all);
  for (const field of fields) field.disabled = !all;
  const answered = fields.every((field) => field.querySelector("input:checked"));
  byId("send").disabled = !(all && answered);
  videos.forEach((video, side) => {
    buttons[side].disabled = !ready(side);
    if (video.readyState >= 4) buttons[side].textContent = ended[side] ? page.labels.again : page.labels.play;
  });
}

async function play(side) {
  if (!ready(side)) return;
  const video = videos[side];
  const trial = state.trial;
  buttons[side].disabled = true;
  video.muted = false;
  video.volume = 1;
  video.currentTime = 0;
  video.reached = 0;
  const answer = await ask("api/play", { trial, side });
  if (!answer.ok) {
    tell(answer.body.reason);
    return;
  }
  await video.play();
  update();
}

videos.forEach((video, side) => {
  buttons[side].addEventListener("click", () => play(side));
  video.addEventListener("canplaythrough", update);
  video.addEventListener("timeupdate", () => {
    if (!video.seeking) video.reached = Math.max(video.reached || 0, video.currentTime);
  });
  video.addEventListener("seeking", () => {
    if (video.currentTime > (video.reached || 0) + 0.3) video.currentTime = video.reached || 0;
  });
  video.addEventListener("volumechange", () => {
    if (video.muted || video.volume < 1) { video.muted = false; video.volume = 1; }
  });
  video.addEventListener("ended", () => { ended[side] = true; update(); });
  video.addEventListener("contextmenu", (event) => event.preventDefault());
});

byId("answers").addEventListener("change", update);
byId("answers").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (byId("send").disabled) return;
  byId("send").disabled = true;
  const answers = {};
  for (const field of fields) {
    answers[field.dataset.scale] = Number(field.querySelector("input:checked").value);
  }
  const answer = await ask("api/vote", {
    trial: state.trial, clips: state.clips, answers, fault: byId("fault").checked,
  });
  if (answer.ok) render(answer.body);
  else {
    await refresh();
    if (answer.status !== 409) tell(answer.body.reason);
  }
});

byId("begin").addEventListener("click", () => { begun = true; render(state); });
byId("hear").addEventListener("click", () => byId("tone").play());
byId("counted").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await ask("api/tones", { count: Number(byId("count").value) });
  byId("count").value = "";
  await refresh();
  if (answer.ok && !answer.body.right && state.phase === "tones") tell(page.labels.wrong);
});

document.addEventListener("keydown", (event) => {
  if (byId("trial").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " ") {
    event.preventDefault();
    const next = ended.indexOf(false);
    play(next < 0 ? 0 : next);
  } else if (event.key.toLowerCase() === "x") {
    byId("fault").click();
  } else if (event.key === "Enter" && !event.target.matches("button")) {
    event.preventDefault();
    byId("send").click();
  } else if (/^[1-9]$/.test(event.key)) {
    const open = fields.find((field) => !field.querySelector("input:checked"));
    const field = open || fields[fields.length - 1];
    const points = field.querySelectorAll("input");
    if (!field.disabled && event.key <= points.length) points[event.key - 1].click();
  }
});

refresh();
