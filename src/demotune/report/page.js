"use strict";
const data = JSON.parse(document.getElementById("report-data").textContent);

/* Charts, in the order of the page: colours are written as light hexes and swapped for the theme's. */
const plots = [...document.querySelectorAll(".plot")];

function themed(value, key, style) {
  if (Array.isArray(value)) return value.map((one) => themed(one, key, style));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, themed(one, name, style)]));
  }
  const variable = /color$/i.test(key) && typeof value === "string" ? data.colours[value.toLowerCase()] : undefined;
  return variable ? style.getPropertyValue(variable).trim() : value;
}

const PAPER_WIDTH = 680; // what A4 and Letter hold; the browser does not say when it lays out for paper

function draw() {
  const style = getComputedStyle(document.documentElement);
  const printing = "print" in document.documentElement.dataset;
  plots.forEach((plot, place) => {
    const figure = themed(data.charts[place], "", style);
    figure.layout.hoverlabel.bgcolor = style.getPropertyValue("--card").trim();
    figure.layout.hoverlabel.bordercolor = style.getPropertyValue("--muted").trim();
    figure.layout.hoverlabel.font.color = style.getPropertyValue("--ink").trim();
    figure.layout.width = printing ? PAPER_WIDTH : undefined;
    plot.style.height = `${figure.layout.height}px`;
    Plotly.react(plot, figure.data, figure.layout, { responsive: true, displayModeBar: false });
  });
}

draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

/* Paper: light colours, everything unfolded. */
const opened = [];
addEventListener("beforeprint", () => {
  document.documentElement.dataset.print = "";
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    opened.push(details);
  }
  draw();
});
addEventListener("afterprint", () => {
  delete document.documentElement.dataset.print;
  for (const details of opened.splice(0)) details.open = false;
  draw();
});

/* Samples. Text goes into the page as text, never as HTML. */
const { names, metrics, rows } = data.samples;
const control = (id) => document.getElementById(id);
const backwards = document.querySelectorAll(".previous");
const forwards = document.querySelectorAll(".next");
let page = 0;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function textBlock(title, text, facts, className) {
  const block = element("div", "text " + className);
  block.append(element("h4", "", title), element("pre", "", text));
  if (facts) block.append(element("p", "facts", facts));
  return block;
}

const rounded = (value) => Number(value.toPrecision(3)).toLocaleString("en");

function factsOf(numbers, finished) {
  const found = metrics
    .filter((metric) => numbers[metric.key] !== undefined && numbers[metric.key] !== null)
    .map((metric) => metric.label + ": " + rounded(numbers[metric.key]));
  return (finished ? found : ["cut off", ...found]).join(" · ");
}

function sampleBlock(row, place) {
  const block = element("article", "sample");
  block.append(element("h3", "", `Prompt ${place + 1} · ${row.key}`), textBlock("Prompt", row.prompt, "", "prompt"));
  const texts = element("div", "texts");
  texts.append(textBlock("Demonstration", row.demonstration, factsOf(row.numbers, true), "demonstration"));
  for (const answer of row.answers) {
    texts.append(textBlock(names[answer.by], answer.text, factsOf(answer.numbers, answer.finished), "answer-text"));
  }
  block.append(texts);
  return block;
}

function chosen() {
  const metric = control("metric").value;
  const who = Number(control("who").value);
  const bound = (id, otherwise) => (control(id).value === "" ? otherwise : Number(control(id).value));
  const least = bound("least", -Infinity);
  const most = bound("most", Infinity);
  const wanted = control("text").value.toLowerCase();
  const valueOf = (row) => {
    const answer = row.answers.find((one) => one.by === who);
    return answer ? answer.numbers[metric] : undefined;
  };
  const kept = rows
    .map((row, place) => ({ row, place, value: metric ? valueOf(row) : place }))
    .filter(({ row, value }) => {
      if (value === undefined || value === null) return false;
      if (metric && (value < least || value > most)) return false;
      if (control("cut").checked && row.answers.every((answer) => answer.finished)) return false;
      const texts = [row.prompt, row.demonstration, ...row.answers.map((answer) => answer.text)];
      return !wanted || texts.some((text) => text.toLowerCase().includes(wanted));
    });
  if (metric) {
    const ascending = (control("order").value === "worst") === (metric !== "length");
    kept.sort((a, b) => (ascending ? a.value - b.value : b.value - a.value));
  }
  return kept;
}

function show() {
  const kept = chosen();
  const size = Number(control("size").value);
  const pages = Math.max(1, Math.ceil(kept.length / size));
  page = Math.min(Math.max(page, 0), pages - 1);
  const first = page * size;
  const visible = kept.slice(first, first + size);
  control("rows").replaceChildren(...visible.map(({ row, place }) => sampleBlock(row, place)));
  for (const text of document.querySelectorAll(".text pre")) {
    if (text.scrollHeight > text.clientHeight) text.tabIndex = 0; // so that the keyboard can scroll it
  }
  control("where").textContent = kept.length
    ? `${first + 1} to ${first + visible.length} of ${kept.length} prompts, page ${page + 1} of ${pages}`
    : "no prompt fits; loosen the filters";
  for (const button of backwards) button.disabled = page === 0;
  for (const button of forwards) button.disabled = page === pages - 1;
}

function turn(by) {
  page += by;
  show();
  if (control("where").getBoundingClientRect().top < 0) control("samples").scrollIntoView();
}

/* Only those who have the metric can be sorted by it: first offered is who has it for most prompts. */
function offerWho() {
  const metric = control("metric").value;
  const options = [...control("who").options];
  const counts = options.map((option) =>
    rows.filter((row) => row.answers.some((one) => one.by === Number(option.value) && metric in one.numbers)).length,
  );
  options.forEach((option, place) => (option.disabled = metric !== "" && !counts[place]));
  if (metric && control("who").selectedOptions[0].disabled) {
    control("who").value = options[counts.lastIndexOf(Math.max(...counts))].value;
  }
  for (const id of ["who", "order", "least", "most"]) control(id).disabled = metric === "";
}

if (rows.length) {
  const form = document.querySelector(".controls");
  const changed = () => {
    offerWho();
    page = 0;
    show();
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const event of ["input", "change"]) form.addEventListener(event, changed);
  for (const button of backwards) button.addEventListener("click", () => turn(-1));
  for (const button of forwards) button.addEventListener("click", () => turn(1));
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
    if (event.key === "j" && !forwards[0].disabled) turn(1);
    if (event.key === "k" && !backwards[0].disabled) turn(-1);
  });
  changed();
}
