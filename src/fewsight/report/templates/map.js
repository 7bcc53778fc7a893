// The map: a photo's picture on hover and on arrow keys, a click leads to its card, a class can be singled out.
(() => {
  const map = document.querySelector("[data-map]");
  if (!map) return;
  const svg = map.querySelector("svg");
  const group = map.querySelector(".points");
  const tip = map.querySelector("[data-tip]");
  const points = [...group.children];
  let here = null;

  const show = (point) => {
    if (here) here.classList.remove("here");
    here = point;
    tip.hidden = !point;
    if (!point) return;
    point.classList.add("here");
    const picture = document.getElementById(point.dataset.pictureOf);
    const image = tip.querySelector("img");
    image.hidden = !picture;
    if (picture) image.src = picture.src;
    tip.querySelector("b").textContent = point.dataset.words;
    tip.querySelector("span").textContent = point.dataset.file;
    const box = point.getBoundingClientRect();
    const frame = map.getBoundingClientRect();
    const x = box.x - frame.x + 16;
    tip.style.left = `${Math.max(0, x + tip.offsetWidth > frame.width ? x - tip.offsetWidth - 24 : x)}px`;
    tip.style.top = `${Math.max(0, Math.min(box.y - frame.y - 20, frame.height - tip.offsetHeight))}px`;
  };
  const open = (point) => {
    if (point && point.dataset.row) location.hash = point.dataset.row;
  };
  const centre = (point) => {
    const box = point.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const next = ([dx, dy]) => {
    if (!here) return points[0];
    const [x, y] = centre(here);
    let best = here;
    let least = Infinity;
    for (const point of points) {
      const [px, py] = centre(point);
      const along = (px - x) * dx + (py - y) * dy;
      const aside = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
      if (along <= 0.5) continue;
      const cost = along + 3 * aside;
      if (cost < least) { least = cost; best = point; }
    }
    return best;
  };
  group.addEventListener("pointerover", (event) => show(event.target.closest(".point")));
  svg.addEventListener("pointerleave", () => show(null));
  group.addEventListener("click", (event) => open(event.target.closest(".point")));
  svg.addEventListener("blur", () => show(null));
  svg.addEventListener("keydown", (event) => {
    if (directions[event.key]) { show(next(directions[event.key])); event.preventDefault(); }
    if (event.key === "Enter") open(here);
    if (event.key === "Escape") show(null);
  });
  const legend = document.querySelector("[data-legend]");
  legend.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const chosen = button.getAttribute("aria-pressed") !== "true";
    for (const other of legend.querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", String(chosen));
    group.classList.toggle("chosen", chosen);
    for (const point of points) point.classList.toggle("lit", chosen && point.dataset.class === button.dataset.class);
  });
})();
