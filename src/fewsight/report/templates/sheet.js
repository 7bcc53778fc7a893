// Filters of a contact sheet. Their state stands behind the # of the address, so that it can be linked and kept:
// find, label, rival, truth, certainty, status, right, from, to (doubt in per cent), view, all, masks;
// or the id of one card.
(() => {
  const form = document.querySelector("[data-filters]");
  if (!form) return;
  const sheet = document.getElementById(form.dataset.filters);
  const cards = [...sheet.children];
  const said = form.querySelector("[data-filtered]");
  const nothing = document.querySelector("[data-none-left]");
  const names = ["find", "label", "truth", "certainty", "status", "right", "from", "to", "view", "all", "masks"];
  // so many are shown at once, that the rest of the page stays within reach
  const folded = 60;
  const more = document.querySelector("[data-more]");
  const unset = { from: "0", to: "100" };
  const texts = cards.map(() => null);
  // what a link may ask for though no control shows it
  let hidden = {};

  const text = (index) => {
    if (texts[index] === null) {
      const parts = cards[index].querySelectorAll(".file, .verdict, .rival, .note, .foot");
      texts[index] = [...parts].map((part) => part.textContent).join(" ").toLowerCase();
    }
    return texts[index];
  };
  const read = () => {
    const state = { ...hidden };
    for (const name of names) {
      const control = form.elements[name];
      if (!control) continue;
      const value = control.type === "checkbox" ? (control.checked ? control.value : "") : control.value.trim();
      if (value && value !== unset[name]) state[name] = value;
    }
    return state;
  };
  const write = (state) => {
    hidden = {};
    for (const name of names) {
      const control = form.elements[name];
      const value = state[name] ?? unset[name] ?? "";
      if (!control) { if (state[name]) hidden[name] = state[name]; continue; }
      if (control.type === "checkbox") control.checked = control.value === value;
      else control.value = value;
      // a select without that choice falls back to "all" rather than to nothing
      if (control.tagName === "SELECT" && control.selectedIndex < 0) control.value = "";
    }
  };
  const fits = (card, index, state) => {
    const data = card.dataset;
    if (state.status && data.status !== state.status) return false;
    if (state.certainty && data.certainty !== state.certainty) return false;
    if (state.right && data.right !== state.right) return false;
    if (state.label && !data.labels.includes(` ${state.label} `)) return false;
    if (state.truth && !data.truth.includes(` ${state.truth} `)) return false;
    const doubt = 100 * Number(data.doubt);
    if (doubt < Number(state.from ?? 0) - 0.5 || doubt > Number(state.to ?? 100) + 0.5) return false;
    return !state.find || text(index).includes(state.find.toLowerCase());
  };
  const apply = (state) => {
    let shown = 0;
    sheet.classList.toggle("only-photos", state.view === "photos");
    document.body.classList.toggle("no-masks", state.masks === "off");
    cards.forEach((card, index) => {
      const fit = fits(card, index, state);
      shown += fit;
      card.hidden = !fit || (!state.all && shown > folded);
    });
    more.hidden = Boolean(state.all) || shown <= folded;
    more.textContent = `Show all ${shown.toLocaleString("en")} photos`;
    const count = (number) => number.toLocaleString("en");
    said.textContent = shown === cards.length ? `${count(shown)} photos` : `${count(shown)} of ${count(cards.length)} photos`;
    nothing.hidden = shown > 0;
  };
  const asked = () => {
    const hash = location.hash.slice(1);
    return hash.includes("=") ? Object.fromEntries(new URLSearchParams(hash)) : null;
  };
  const changed = () => {
    const state = read();
    history.replaceState(null, "", "#" + (new URLSearchParams(state).toString() || "photos"));
    apply(state);
  };
  // a link to one photo shows it whatever the filters say, and why it got its answer
  const single = () => {
    const card = /^#r\d+$/.test(location.hash) && document.getElementById(location.hash.slice(1));
    if (!card) return;
    card.hidden = false;
    const why = card.querySelector("details");
    if (why) { why.open = true; why.firstElementChild.focus({ preventScroll: true }); }
    card.scrollIntoView({ block: "center" });
  };
  const follow = (scroll) => {
    single();
    const state = asked();
    if (!state) return;
    if (state.theme) document.documentElement.dataset.theme = state.theme;
    write(state);
    apply(read());
    if (scroll) document.getElementById("photos").scrollIntoView();
  };
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", changed);
  more.addEventListener("click", () => { hidden = { ...hidden, all: "1" }; changed(); });
  form.addEventListener("reset", () => setTimeout(() => { hidden = {}; changed(); }));
  window.addEventListener("hashchange", () => follow(true));
  apply(read());
  follow(false);
})();
