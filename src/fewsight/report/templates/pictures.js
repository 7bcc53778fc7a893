"use strict";
// Each photo stands in the page once; its other appearances copy it when they come into view.
(() => {
  const fill = (element) => {
    const original = document.getElementById(element.dataset.picture);
    if (!original) return;
    if (element.tagName === "IMG") element.src = original.src;
    else element.setAttribute("href", original.src);
    element.removeAttribute("data-picture");
  };
  const waiting = () => document.querySelectorAll("[data-picture]");
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watcher.unobserve(entry.target);
      if (entry.target.dataset.picture) fill(entry.target);
      for (const inner of entry.target.querySelectorAll("img[data-picture]")) fill(inner);
    }
  }, { rootMargin: "400px" });
  const watch = () => {
    for (const holder of document.querySelectorAll(".card")) watcher.observe(holder);
    for (const loose of document.querySelectorAll("img[data-picture]")) if (!loose.closest(".card")) watcher.observe(loose);
  };
  document.addEventListener("toggle", (event) => {
    for (const inner of event.target.querySelectorAll("[data-picture]")) fill(inner);
  }, true);
  document.querySelectorAll("details[open] [data-picture]").forEach(fill);
  window.addEventListener("beforeprint", () => waiting().forEach(fill));
  watch();

  const root = document.documentElement;
  const toggle = document.querySelector("[data-theme-toggle]");
  if (toggle) {
    toggle.hidden = false;
    toggle.addEventListener("click", () => {
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
    });
  }
})();
