/* Samples. Text goes into the page as text, never as HTML. */
const { names, metrics, rows } = data.samples;
const PRINTED = 2;
const control = (id) => document.getElementById(id);
const backwards = document.querySelectorAll(".previous");
const forwards = document.querySelectorAll(".next");
let page = 0;

const saidBy = { user: "User", assistant: "Assistant", system: "System", tool: "Tool", developer: "Developer" };

function messageBlocks(messages) {
  const block = element("div", "messages");
  for (const [role, text] of messages) block.append(textBlock(saidBy[role] ?? "Prompt", text, "", "message " + role));
  return block;
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
  block.id = "sample-" + row.key;
  block.tabIndex = -1; // so that a link to it can put the focus here
  const title = `Prompt ${place + 1} · ${row.key}`;
  block.append(element("h3", "", title), anchorTo(block.id, title), messageBlocks(row.messages));
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
      const texts = [...row.messages.map(([, text]) => text), row.demonstration, ...row.answers.map((answer) => answer.text)];
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
  const size = "print" in root.dataset ? PRINTED : Number(control("size").value);
  const pages = Math.max(1, Math.ceil(kept.length / size));
  page = Math.min(Math.max(page, 0), pages - 1);
  const first = page * size;
  const visible = kept.slice(first, first + size);
  control("rows").replaceChildren(...visible.map(({ row, place }) => sampleBlock(row, place)));
  for (const text of document.querySelectorAll(".text pre")) {
    if (text.scrollHeight > text.clientHeight) text.tabIndex = 0; // so that the keyboard can scroll it
  }
  control("where").textContent = kept.length
    ? `${first + 1} to ${first + visible.length} of ${kept.length} prompts, page ${page + 1} of ${pages}` +
      (kept.length < rows.length ? `; ${rows.length} without the filters` : "")
    : "no prompt fits; loosen the filters";
  for (const button of backwards) button.disabled = page === 0;
  for (const button of forwards) button.disabled = page === pages - 1;
}

/* Shows the sample with this key, whatever was filtered before; null where there is none. */
function revealSample(key) {
  if (!rows.some((row) => row.key === key)) return null;
  if (!chosen().some(({ row }) => row.key === key)) document.querySelector(".controls").reset();
  offerWho();
  page = Math.floor(chosen().findIndex(({ row }) => row.key === key) / Number(control("size").value));
  show();
  return document.getElementById("sample-" + key);
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
    if (event.key === "/") {
      event.preventDefault();
      reveal(control("text"));
      control("text").focus();
    }
    if (event.key === "j" && !forwards[0].disabled) turn(1);
    if (event.key === "k" && !backwards[0].disabled) turn(-1);
  });
  addEventListener("beforeprint", show);
  addEventListener("afterprint", show);
  changed();
}
