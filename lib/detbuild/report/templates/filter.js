"use strict";
(() => {
  const rows = [...document.querySelectorAll(".finding")];
  const controls = [...document.querySelectorAll("#filter select, #filter input")];
  const count = document.getElementById("shown");
  const texts = rows.map((row) => row.dataset.text.toLowerCase());
  const apply = () => {
    const wanted = Object.fromEntries(controls.map((control) => [control.name, control.value]));
    const search = wanted.search.trim().toLowerCase();
    let left = 0;
    rows.forEach((row, number) => {
      const good = ["recipe", "cause", "format"].every((name) => !wanted[name] || row.dataset[name] === wanted[name])
        && (!search || texts[number].includes(search));
      if (row.hidden === good) row.hidden = !good;
      left += good;
    });
    count.textContent = `${left} of ${rows.length}`;
  };
  let waiting = 0;
  controls.forEach((control) => control.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(apply, 80);
  }));
  document.querySelectorAll("[data-root-recipe]").forEach((link) => link.addEventListener("click", () => {
    document.querySelector("#filter [name=recipe]").value = link.dataset.rootRecipe;
    document.querySelector("#filter [name=cause]").value = link.dataset.rootCause;
    apply();
  }));
  document.getElementById("filter").addEventListener("reset", () => setTimeout(apply));
  document.getElementById("filter").hidden = false;
  apply();
})();
