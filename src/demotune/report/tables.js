/* Tables as CSV, made here: a spreadsheet must not take a cell for a formula. */
const NUMBER = /^[+\u2212-]?[\d.,]+(e[+\u2212-]?\d+)?%?$/;

function csvCell(text) {
  const plain = NUMBER.test(text) ? text.replaceAll("\u2212", "-").replaceAll(",", "") : text;
  const safe = !NUMBER.test(text) && /^\s*[=+\-@\t\r\u2212\uff1d\uff0b\uff0d\uff20]/.test(plain) ? "'" + plain : plain;
  return `"${safe.replaceAll('"', '""')}"`;
}

const csvOf = (table) =>
  [...table.rows].map((row) => [...row.cells].map((cell) => csvCell(cell.textContent)).join(",")).join("\r\n") + "\r\n";

function download(table) {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", csvOf(table)], { type: "text/csv;charset=utf-8" }));
  link.download = table.caption.textContent.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "") + ".csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const widths = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    target.parentElement.classList.toggle("more", target.scrollWidth > target.clientWidth + 1);
  }
});

for (const scroll of document.querySelectorAll(".scroll")) {
  const frame = element("div", "table");
  const bar = element("div", "bar");
  const button = element("button", "csv", "CSV");
  button.type = "button";
  button.setAttribute("aria-label", `Download as CSV: ${scroll.getAttribute("aria-label")}`);
  button.addEventListener("click", () => download(scroll.querySelector("table")));
  bar.append(element("span", "sideways", "scroll sideways for more columns \u2192"), button);
  scroll.replaceWith(frame);
  frame.append(scroll, bar);
  widths.observe(scroll);
}
