// Corrections: a card is confirmed or given another label; all that were become a CSV to run again with.
(() => {
  const bar = document.querySelector("[data-collected]");
  if (!bar) return;
  const names = JSON.parse(document.getElementById("class-names").textContent);
  const link = bar.querySelector("a");
  const told = bar.querySelector("output");
  const kept = new Map();
  let saved = true;

  const quoted = (text) => `"${text.replaceAll('"', '""')}"`;
  const table = () => {
    const several = [...kept.values()].some((labels) => labels.length > 1);
    const lines = [["file", several ? "labels" : "label"]];
    for (const [card, labels] of kept) lines.push([JSON.parse(card.dataset.file), labels.join(";")]);
    return lines.map((line) => line.map(quoted).join(",") + "\r\n").join("");
  };
  const changed = (card, labels) => {
    if (labels.length) kept.set(card, labels);
    else kept.delete(card);
    card.classList.toggle("checked", labels.length > 0);
    saved = kept.size === 0;
    bar.hidden = saved;
    told.textContent = kept.size === 1 ? "1 photo checked" : `${kept.size.toLocaleString("en")} photos checked`;
    link.href = "data:text/csv;charset=utf-8," + encodeURIComponent(table());
  };
  const answers = (card) => card.dataset.labels.trim().split(/\s+/).filter(Boolean).map((index) => names[index]);
  const controls = (card) => {
    const row = document.createElement("div");
    row.className = "correct";
    const own = answers(card);
    const input = document.createElement("input");
    input.placeholder = own.length ? "no, it is …" : "it is …";
    input.setAttribute("aria-label", "What it is instead");
    input.setAttribute("list", "class-list");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "✓ right";
    button.setAttribute("aria-pressed", "false");
    button.hidden = own.length === 0;
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      input.value = "";
      changed(card, on ? own : []);
    });
    input.addEventListener("change", () => {
      button.setAttribute("aria-pressed", "false");
      const label = input.value.trim();
      changed(card, label ? [label] : []);
    });
    row.append(button, input);
    card.append(row);
  };
  const list = document.createElement("datalist");
  list.id = "class-list";
  for (const name of names) {
    const option = document.createElement("option");
    option.value = name;
    list.append(option);
  }
  bar.append(list);
  document.querySelectorAll(".card").forEach(controls);
  link.addEventListener("click", () => { saved = true; });
  window.addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });
})();
