// The tables of a page that are inside .sortable are sorted by a click on a heading.
function value(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text.replaceAll(",", ""));
  return Number.isNaN(number) ? text : number;
}

function sort(table, headings, column) {
  const down = headings[column].ariaSort === "ascending";
  headings.forEach((heading) => heading.removeAttribute("aria-sort"));
  headings[column].ariaSort = down ? "descending" : "ascending";
  const rows = [...table.tBodies[0].rows];
  rows.sort((one, two) => {
    const [a, b] = [value(one, column), value(two, column)];
    const order = typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b));
    return down ? -order : order;
  });
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll(".sortable table")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.textContent = heading.textContent;
    button.addEventListener("click", () => sort(table, headings, column));
    heading.replaceChildren(button);
  });
}

// What the theme leaves out for screen readers and keyboards.
for (const caption of document.querySelectorAll(".caption[role=heading]")) {
  caption.ariaLevel = 2;
}
for (const [name, label] of [["sidebar", "Pages"], ["toc", "On this page"]]) {
  const drawer = document.querySelector(`.${name}-drawer`);
  if (drawer) drawer.ariaLabel = label;
}
for (const heading of document.querySelectorAll("thead th")) {
  if (heading.textContent.trim()) continue;
  const cell = document.createElement("td");
  cell.className = heading.className;
  heading.replaceWith(cell);
}
if (!document.querySelector("h1")) {
  const heading = document.createElement("h1");
  heading.textContent = document.title.split(" - ")[0];
  document.querySelector("article").prepend(heading);
}
for (const code of document.querySelectorAll("pre, .table-wrapper")) {
  code.tabIndex = 0;
}
