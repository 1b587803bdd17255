"use strict";
// Each player gets its controls below the picture, where they hide nothing.
const players = () => [...document.querySelectorAll("video, audio")];

function button(text, name) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.className = name;
  return made;
}

function toggle(media) {
  if (media.paused) media.play().catch(() => {}); else media.pause();
}

function addControls(media) {
  const of = media.getAttribute("aria-label");
  const play = button("Play", "play");
  const mute = button("Mute", "mute");
  const seek = document.createElement("input");
  Object.assign(seek, { type: "range", min: 0, max: 1, step: "any", value: 0 });
  seek.setAttribute("aria-label", `Position in ${of}`);
  mute.setAttribute("aria-label", `Mute ${of}`);
  const show = () => {
    play.textContent = media.paused ? "Play" : "Pause";
    play.setAttribute("aria-label", `${play.textContent} ${of}`);
    mute.setAttribute("aria-pressed", String(media.muted));
  };
  const draw = () => {
    seek.value = media.currentTime / (media.duration || 1);
    if (!media.paused) requestAnimationFrame(draw);
  };
  play.addEventListener("click", () => toggle(media));
  mute.addEventListener("click", () => { media.muted = !media.muted; });
  seek.addEventListener("input", () => {
    media.currentTime = seek.value * (media.duration || 0);
  });
  media.addEventListener("play", () => {
    for (const other of players()) if (other !== media) other.pause();
    draw();
  });
  for (const name of ["play", "pause", "volumechange"]) {
    media.addEventListener(name, show);
  }
  for (const name of ["timeupdate", "seeked"]) {
    media.addEventListener(name, draw);
  }
  const bar = document.createElement("div");
  bar.className = "controls";
  bar.append(play, seek, mute);
  media.after(bar);
  media.controls = false;
  media.addEventListener("click", () => toggle(media));
  show();
}

players().forEach(addControls);
