"use strict";
// Click a table heading to sort: ascending, descending, original order. Without this script, tables are only unsorted.
for (const table of document.querySelectorAll("table[data-sorts]")) {
  const written = [...table.tBodies[0].rows];
  const moving = written.filter((row) => !row.hasAttribute("data-stays"));
  if (moving.length < 2) continue;
  const heads = [...table.tHead.rows[0].cells];
  const told = (row, column) => (row.cells[column].querySelector(".value, .name") ?? row.cells[column]).textContent.trim();
  const value = (text) => /^[+-]?[\d.]/.test(text) ? parseFloat(text) : NaN;
  const compare = (column) => {
    const texts = new Map(moving.map((row) => [row, told(row, column).replace("−", "-")]));
    const missing = (row) => texts.get(row) === "" || texts.get(row) === "–";
    const known = moving.filter((row) => !missing(row));
    const numbers = column > 0 && known.every((row) => !Number.isNaN(value(texts.get(row))));
    return (a, b, sign) => {
      // Missing values come last in either direction.
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      const [x, y] = [texts.get(a), texts.get(b)];
      return sign * (numbers ? value(x) - value(y) : x.localeCompare(y, "en", { numeric: true }));
    };
  };
  table.classList.add("sorting");
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    const order = document.createElement("span");
    order.className = "order";
    const [name, ...small] = head.childNodes;
    button.append(name ?? "", order, ...small);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")] ?? "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      if (next === "none") {
        table.tBodies[0].append(...written);
        return;
      }
      head.setAttribute("aria-sort", next);
      const by = compare(column);
      const sign = next === "ascending" ? 1 : -1;
      const sorted = [...moving].sort((a, b) => by(a, b, sign));
      table.tBodies[0].append(...sorted, ...written.filter((row) => row.hasAttribute("data-stays")));
    });
  });
}
