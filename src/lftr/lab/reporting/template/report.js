for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (head.tagName !== "TH") return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const rising = head.ariaSort === "descending" || (column === 0 && head.ariaSort === null);
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const value = row => Number(row.cells[column].dataset.value);
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => (rising ? 1 : -1) * (value(a) - value(b)));
      table.tBodies[0].append(...rows);
    });
  });
}

const filter = document.querySelector("form.filter");
if (filter) {
  const cards = [...document.querySelectorAll(".card")];
  const apply = () => {
    const { setting, kind } = Object.fromEntries(new FormData(filter));
    for (const card of cards) {
      card.hidden = Boolean((setting && card.dataset.setting !== setting) || (kind && card.dataset.kind !== kind));
    }
    filter.querySelector("output").value = `${cards.filter(card => !card.hidden).length} shown`;
  };
  filter.hidden = false;
  filter.addEventListener("change", apply);
  apply();
}
