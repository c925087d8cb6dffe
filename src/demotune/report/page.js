"use strict";
const data = JSON.parse(document.getElementById("report-data").textContent);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function anchorTo(id, title) {
  const anchor = element("a", "anchor", "#");
  anchor.href = "#" + encodeURIComponent(id);
  anchor.setAttribute("aria-label", "Link to: " + title);
  return anchor;
}

/* Charts, in the order of the page: colours are written as light hexes and swapped for the theme's. */
const plots = [...document.querySelectorAll(".plot")];
const root = document.documentElement;

function themed(value, key, style) {
  if (Array.isArray(value)) return value.map((one) => themed(one, key, style));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, themed(one, name, style)]));
  }
  const variable = /color$/i.test(key) && typeof value === "string" ? data.colours[value.toLowerCase()] : undefined;
  return variable ? style.getPropertyValue(variable).trim() : value;
}

/* What A4 and Letter hold; the browser does not say when it lays out for paper. */
const PAPER_WIDTH = 680;
const PAPER_COLUMN = 330;
const PAPER_HEIGHT = 170;
const isWide = (plot) => plot.closest(".wide") !== null || plot.closest(".chart:only-child") !== null;

/* Draws what can be seen: a chart in a closed fold has no width. */
function draw(within = document) {
  const style = getComputedStyle(root);
  const printing = "print" in root.dataset;
  plots.forEach((plot, place) => {
    if (!within.contains(plot) || plot.closest("details:not([open]), [hidden]")) return;
    const figure = themed(data.charts[place], "", style);
    figure.layout.hoverlabel.bgcolor = style.getPropertyValue("--card").trim();
    figure.layout.hoverlabel.bordercolor = style.getPropertyValue("--muted").trim();
    figure.layout.hoverlabel.font.color = style.getPropertyValue("--ink").trim();
    if (printing) {
      figure.layout.width = isWide(plot) ? PAPER_WIDTH : PAPER_COLUMN;
      figure.layout.height = Math.max(PAPER_HEIGHT, 0.6 * figure.layout.height);
    }
    plot.style.height = `${figure.layout.height}px`;
    Plotly.react(plot, figure.data, figure.layout, { responsive: true, displayModeBar: false });
  });
}

/* A narrow screen begins with the answer, the stages and the limits. */
const folds = [...document.querySelectorAll(".fold")];
const UNFOLDED = ["stages", "limits"];
if (matchMedia("(max-width: 46rem)").matches) {
  for (const fold of folds) fold.open = UNFOLDED.includes(fold.querySelector("h2").id);
}

/* One of several charts: the others are hidden. */
for (const choose of document.querySelectorAll(".choose")) {
  const show = () => {
    for (const { value } of choose.options) document.getElementById(value).hidden = value !== choose.value;
    draw(choose.closest("section"));
  };
  choose.parentElement.hidden = false;
  choose.addEventListener("change", show);
  show();
}

draw();
document.getElementById("js-plotly-tester")?.setAttribute("aria-hidden", "true"); // plotly measures texts there
addEventListener("toggle", (event) => draw(event.target), true); // it does not bubble
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());

/* Paper: light colours, and the main parts alone. */
let before = [];
addEventListener("beforeprint", () => {
  const all = [...document.querySelectorAll("details")];
  before = all.map((details) => [details, details.open]);
  root.dataset.print = "";
  for (const details of all) details.open = "paper" in details.dataset;
  draw();
});
addEventListener("afterprint", () => {
  delete root.dataset.print;
  for (const [details, open] of before) details.open = open;
  draw();
});
