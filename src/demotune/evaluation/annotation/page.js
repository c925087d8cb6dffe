"use strict";
// Blind comparison: shows two answers, sends each vote, and goes on only when it is kept. All text is set as text.
const $ = (id) => document.getElementById(id);
const KEYS = { 1: "left", 2: "right", 0: "tie" };
let items = [];
let votes = new Map(); // place -> choice, in the order in which they were cast
let at = 0;
let busy = true;

function show() {
  const item = items[at];
  $("item").hidden = false;
  $("progress").max = items.length;
  $("progress").value = votes.size;
  $("where").textContent = `${at + 1} of ${items.length} · ${votes.size} rated` +
    (votes.size === items.length ? " · all rated: Finish shows the result in the terminal" : "");
  $("prompt").replaceChildren(...item.messages.map(turn));
  document.querySelectorAll("#answers .text").forEach((box, side) => { box.textContent = item.answers[side]; });
  document.querySelectorAll("[data-choice]").forEach((one) => {
    one.classList.toggle("chosen", votes.get(at) === one.dataset.choice);
    if (one.tagName === "BUTTON") one.setAttribute("aria-pressed", votes.get(at) === one.dataset.choice);
  });
  $("back").disabled = at === 0;
  $("next").disabled = at === items.length - 1;
  $("undo").disabled = votes.size === 0;
}

function turn(message) {
  const box = document.createElement("div"), title = document.createElement("h2"), text = document.createElement("div");
  box.className = "turn";
  box.dataset.role = message.role;
  title.textContent = message.role;
  text.className = "text";
  text.dir = "auto";
  text.textContent = message.content;
  box.append(title, text);
  return box;
}

function go(place) {
  if (busy || place < 0 || place >= items.length) return;
  at = place;
  show();
  scrollTo(0, 0);
}

// The next pair without a vote, from here on and around; here where all have one.
function unrated() {
  for (let step = 1; step <= items.length; step++) {
    const place = (at + step) % items.length;
    if (!votes.has(place)) return place;
  }
  return at;
}

async function post(path, body) {
  busy = true;
  try {
    const answer = await fetch(path, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    });
    if (!answer.ok) throw new Error(answer.statusText);
    $("message").hidden = true;
    return true;
  } catch (error) {
    $("message").textContent = `This could not be saved (${error.message}). Is demotune annotate still running? Try again.`;
    $("message").hidden = false;
    return false;
  } finally {
    busy = false;
  }
}

async function vote(choice) {
  if (busy || !(await post("vote", { item: at, choice }))) return;
  votes.delete(at);
  votes.set(at, choice);
  go(unrated());
}

async function undo() {
  const last = [...votes.keys()].pop();
  if (busy || last === undefined || !(await post("vote", { item: last, choice: null }))) return;
  votes.delete(last);
  go(last);
}

async function finish() {
  if (busy || !(await post("finish", {}))) return;
  busy = true;
  $("item").hidden = true;
  document.querySelector("footer").hidden = true;
  $("where").textContent = `Thank you. ${votes.size} of ${items.length} are rated, and the result is in the terminal. This page can be closed.`;
}

document.querySelectorAll("button[data-choice]").forEach((one) => one.addEventListener("click", () => vote(one.dataset.choice)));
$("back").addEventListener("click", () => go(at - 1));
$("next").addEventListener("click", () => go(at + 1));
$("undo").addEventListener("click", undo);
$("finish").addEventListener("click", finish);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.key in KEYS) vote(KEYS[event.key]);
  else if (event.key === "ArrowLeft") go(at - 1);
  else if (event.key === "ArrowRight") go(at + 1);
  else if (event.key === "u" || event.key === "U" || event.key === "Backspace") undo();
  else return;
  event.preventDefault();
});

fetch("state").then((answer) => answer.json()).then((state) => {
  items = state.items;
  votes = new Map(state.votes);
  at = items.length - 1;
  at = unrated();
  busy = false;
  show();
});
