/* Links into the page: what they name is unfolded, shown and focused. */
function reveal(target) {
  for (let at = target; at; at = at.parentElement) {
    if (at.tagName === "DETAILS") at.open = true;
    const choose = at.hidden && [...document.querySelectorAll(".choose")].find((one) => one.querySelector(`[value="${at.id}"]`));
    if (choose) {
      choose.value = at.id;
      choose.dispatchEvent(new Event("change"));
    }
  }
}

function follow() {
  let id = "";
  try {
    id = decodeURIComponent(location.hash.slice(1));
  } catch {
    return; // no name of anything on this page
  }
  const target = id.startsWith("sample-") ? revealSample(id.slice("sample-".length)) : document.getElementById(id);
  if (!target) return;
  reveal(target);
  if (target.tabIndex >= -1 && target.hasAttribute("tabindex")) target.focus({ preventScroll: true });
  target.scrollIntoView();
}

/* A link that is clicked is copied too, where the browser lets a page do that. */
addEventListener("click", (event) => {
  const anchor = event.target.closest?.(".anchor");
  if (!anchor) return;
  navigator.clipboard?.writeText(anchor.href).then(
    () => (document.getElementById("said").textContent = "Link copied"),
    () => {}, // it is in the address bar all the same
  );
});

/* Meanings of words: beside the pointer's word, beside the focused one, and after a tap. */
const tip = document.getElementById("tip");
let explained = null;

function explain(term) {
  explained = term;
  tip.hidden = !term;
  if (!term) return;
  tip.textContent = document.querySelector(`${term.getAttribute("href")} dd`).textContent;
  const place = term.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(place.left, innerWidth - tip.offsetWidth - 8))}px`;
  const below = place.bottom + tip.offsetHeight + 8 < innerHeight;
  tip.style.top = `${below ? place.bottom : Math.max(8, place.top - tip.offsetHeight)}px`;
}

for (const term of document.querySelectorAll(".term")) {
  term.setAttribute("aria-describedby", "tip");
  term.addEventListener("mouseenter", () => explain(term));
  term.addEventListener("mouseleave", () => explain(null));
  term.addEventListener("focus", () => explain(term));
  term.addEventListener("blur", () => explain(null));
  term.addEventListener("click", (event) => {
    event.preventDefault();
    explain(term);
  });
}
addEventListener("keydown", (event) => event.key === "Escape" && explain(null));
addEventListener("scroll", () => explained && explain(null), { passive: true });

addEventListener("hashchange", follow);
follow();
