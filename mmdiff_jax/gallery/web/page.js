const lists = [...document.querySelectorAll(".cards")];
const sort = document.getElementById("sort");
const order = document.getElementById("order");
const marks = document.getElementById("marks");
const cards = () => lists.flatMap((list) => [...list.children]);
const player = (card) => card.querySelector(".result :is(video, audio)");
const pressed = (toggled) => toggled.getAttribute("aria-pressed") === "true";

function value(card, name = sort.value) {
  return JSON.parse(card.dataset.values)[name] ?? null;
}

function arrange() {
  const sign = pressed(order) ? -1 : 1;
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    const numbers = typeof x === "number" && typeof y === "number";
    const by = numbers ? x - y
      : String(x).localeCompare(String(y), undefined, { numeric: true });
    return sign * by || value(a, "place") - value(b, "place");
  };
  const focused = document.activeElement;
  for (const list of lists) list.append(...[...list.children].sort(compare));
  if (focused.closest(".card")) focused.focus();
}

function reverse() {
  order.setAttribute("aria-pressed", String(!pressed(order)));
  arrange();
}

function showMarks(on) {
  document.body.classList.toggle("marked", on);
  marks.setAttribute("aria-pressed", String(on));
}

function step(by) {
  const all = cards();
  const at = all.findIndex((card) => card.contains(document.activeElement));
  const last = all.length - 1;
  const to = at < 0 ? (by > 0 ? 0 : last) : at + by;
  const card = all[Math.min(Math.max(to, 0), last)];
  card.focus();
  card.scrollIntoView({ block: "nearest" });
}

sort.addEventListener("change", arrange);
order.addEventListener("click", reverse);
marks?.addEventListener("click", () => showMarks(!pressed(marks)));

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const card = event.target.closest?.(".card");
  const key = event.key.toLowerCase();
  if (event.target.matches?.("select")) return;
  if (key === "j") step(1);
  else if (key === "k") step(-1);
  else if (key === "s") sort.focus();
  else if (key === "r") reverse();
  else if (key === "o" && marks) showMarks(!pressed(marks));
  else if (key === " " && event.target === card) {
    const media = player(card);
    if (media) toggle(media);
  } else return;
  event.preventDefault();
});

// Media are read only when they come near the screen: pages may be long.
const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    target.querySelector("video, audio").preload = "auto";
    near.unobserve(target);
  }
}, { rootMargin: "800px" });

for (const side of document.querySelectorAll(".side")) {
  const media = side.querySelector("video, audio");
  if (!media) continue;
  near.observe(side);
  const panel = side.querySelector(".panel");
  if (!panel) continue;
  const head = panel.querySelector(".head");
  const draw = () => {
    const share = media.currentTime / (media.duration || 1);
    head.style.left = `${100 * Math.min(share, 1)}%`;
    if (!media.paused) requestAnimationFrame(draw);
  };
  for (const name of ["play", "timeupdate", "seeked"]) {
    media.addEventListener(name, draw);
  }
  panel.addEventListener("click", (event) => {
    const box = panel.getBoundingClientRect();
    media.currentTime =
      (event.clientX - box.left) / box.width * (media.duration || 0);
  });
}
