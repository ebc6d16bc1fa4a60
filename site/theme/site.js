// Everything that every page does: light or dark, the menu, copy buttons, where one is, and the search.
"use strict";
const $ = (selector, from = document) => from.querySelector(selector);
const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const words = JSON.parse(document.body.dataset.texts);
const root = document.body.dataset.root;

const dark = matchMedia("(prefers-color-scheme: dark)");
$(".mode-button").addEventListener("click", () => {
  const now = document.documentElement.dataset.mode || (dark.matches ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  const own = next === (dark.matches ? "dark" : "light");
  if (own) delete document.documentElement.dataset.mode; else document.documentElement.dataset.mode = next;
  try { if (own) localStorage.removeItem("mode"); else localStorage.setItem("mode", next); } catch {}
});

const menuButton = $(".menu-button");
const openMenu = (open) => {
  document.body.classList.toggle("menu-open", open);
  menuButton.setAttribute("aria-expanded", open);
  $("main").inert = open;  // it lies behind the menu
};
menuButton.addEventListener("click", () => openMenu(!document.body.classList.contains("menu-open")));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && document.body.classList.contains("menu-open")) { openMenu(false); menuButton.focus(); }
});
matchMedia("(max-width: 56rem)").addEventListener("change", () => openMenu(false));
$(".language")?.addEventListener("click", (event) => { event.currentTarget.hash = location.hash; });
const current = $(".menu [aria-current]");
if (current && current.offsetTop > innerHeight - 120) $(".menu").scrollTop = current.offsetTop - innerHeight / 2;

async function copy(button, text, before) {
  try { await navigator.clipboard.writeText(text); } catch {
    const area = make("textarea", {value: text});
    document.body.append(area); area.select(); document.execCommand("copy"); area.remove(); button.focus();
  }
  button.textContent = words.copied;
  setTimeout(() => { button.textContent = before; }, 1500);
}
for (const block of $$(".code")) {
  const button = make("button", {className: "copy", type: "button", textContent: words.copy});
  button.addEventListener("click", () => copy(button, $("pre", block).textContent, words.copy));
  block.append(button);
}
for (const heading of $$("article :is(h2, h3)[id]:not(.entry h2)")) {
  const link = make("a", {className: "anchor", href: `#${heading.id}`, textContent: "#"});
  link.setAttribute("aria-hidden", "true");
  link.tabIndex = -1;
  heading.append(link);
}

// What scrolls sideways can be scrolled by keys, and shows that it goes on.
const fade = (box) => box.classList.toggle("more", box.scrollWidth - box.clientWidth - box.scrollLeft > 3);
const reachable = () => {
  for (const box of $$("pre, .scroll, figure")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; else box.removeAttribute("tabindex");
    fade(box);
  }
};
document.addEventListener("scroll", (event) => event.target.tabIndex === 0 && fade(event.target), {capture: true, passive: true});
new ResizeObserver(reachable).observe(document.body);
document.addEventListener("toggle", reachable, true);
const decoded = (hash) => { try { return decodeURIComponent(hash.slice(1)); } catch { return ""; } };
const openTarget = () => {
  const target = document.getElementById(decoded(location.hash));
  if (!target) return;
  for (let box = target.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
  for (const box of $$(":scope > .card > .fold, :scope > .fold", target)) box.open = true;
  target.scrollIntoView();
};
addEventListener("hashchange", openTarget);
openTarget();
let opened = [];  // for paper, and closed again afterwards: a quiz keeps its answers
addEventListener("beforeprint", () => {
  opened = $$("details:not(.fold, .contents, [open])");
  for (const box of opened) box.open = true;
});
addEventListener("afterprint", () => { for (const box of opened) box.open = false; });

const places = $$(".toc a").map((link) => [link, document.getElementById(decoded(link.hash))]);
const showPlace = () => {
  let here = null;
  for (const [link, target] of places) if (target && target.getBoundingClientRect().top < 140) here = link;
  if (scrollY > 0 && innerHeight + scrollY >= document.documentElement.scrollHeight - 2) here = places.at(-1)[0];
  for (const [link] of places) link.classList.toggle("here", link === here);
  const box = $(".toc"), top = here ? here.offsetTop - box.scrollTop : 40;
  if (top < 40 || top > box.clientHeight - 60) box.scrollTop += top - box.clientHeight / 2;
};
if (places.length) { addEventListener("scroll", showPlace, {passive: true}); showPlace(); }

// Search: the index is loaded when it is first needed; every word must occur, in any script, also inside words,
// whichever hyphens and quotation marks it is written with.
const dialog = $(".search-dialog"), input = $("input", dialog), results = $(".results", dialog), found = $(".found", dialog);
const fold = (text) => text.normalize("NFKC").toLowerCase()
  .replace(/[’‘]/g, "'").replace(/[“”]/g, '"').replace(/[-_\u2010-\u2014・]/g, " ")
  .replace(/[\u3041-\u3096]/g, (c) => String.fromCharCode(c.charCodeAt(0) + 96));
let entries = null;
function load() {
  entries ??= new Promise((resolve, reject) => {
    const script = make("script", {src: `${root}assets/search-data.js`, onerror: reject});
    script.onload = () => resolve(window.searchData.map(([url, lang, title, heading, text]) => (
      {url, lang, title, heading, text, folded: [fold(title), fold(heading), fold(text)]})));
    document.head.append(script);
  });
  return entries;
}
function score(entry, terms) {
  const [title, heading, text] = entry.folded;
  let total = entry.lang === document.documentElement.lang ? 4 : 0;
  for (const term of terms) {
    const inHeading = heading.includes(term), inTitle = title.includes(term), at = text.indexOf(term);
    if (!inHeading && !inTitle && at < 0) return 0;
    total += 1 + 12 * inHeading + 5 * (inTitle && !heading) + 2 * inTitle + (at >= 0 ? 3 : 0);
  }
  const whole = terms.join(" ");
  if (heading.split(" · ").includes(whole)) total += 30;
  if (!heading && title === whole) total += 20;
  return total;
}
// The terms of the glossary that share most pairs of letters with what was not found; Japanese ones single letters too.
function pairs(text) {
  const letters = [...fold(text).replace(/\s/g, "")];
  return new Set([...letters.slice(1).map((letter, i) => letters[i] + letter), ...letters.filter((letter) => letter > "\u2fff")]);
}
function near(text, all) {
  const own = pairs(text);
  const alike = (heading) => Math.max(...heading.split(" · ").map((name) => {
    const other = pairs(name), shared = [...own].filter((pair) => other.has(pair)).length;
    return 2 * shared / (own.size + other.size || 1);
  }));
  return all.filter((entry) => entry.lang === document.documentElement.lang && entry.url.includes("glossary.html#"))
    .map((entry) => [alike(entry.heading), entry]).filter(([points]) => points >= .4)
    .sort(([a], [b]) => b - a).slice(0, 3).map(([, entry]) => entry);
}
function snippet(text, terms) {
  const plain = text.toLowerCase();
  const at = Math.max(0, Math.min(...terms.map((term) => plain.indexOf(term)).filter((i) => i >= 0).concat(1e9)));
  const start = at > 1e8 ? 0 : Math.max(0, at - 40);
  const piece = (start ? "…" : "") + text.slice(start, start + 180);
  const pattern = new RegExp(`(${terms.map((t) => t.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})`, "gi");
  return piece.split(pattern).map((part, i) => i % 2 ? make("mark", {textContent: part}) : part);
}
async function search() {
  const terms = fold(input.value).split(/\s+/).filter(Boolean);
  const all = terms.length ? await load() : [];
  if (fold(input.value).split(/\s+/).filter(Boolean).join() !== terms.join()) return;
  const hits = all.map((entry) => [score(entry, terms), entry]).filter(([points]) => points > 0)
    .sort(([a], [b]) => b - a);
  found.textContent = !terms.length ? "" : hits.length ? `${hits.length} ${hits.length === 1 ? words.one : words.count}`
    : `${words.none} “${input.value.trim()}”`;
  const offers = terms.length && !hits.length ? near(input.value, all) : [];
  if (offers.length) found.append(make("br"), words.near + words.colon, ...offers.flatMap((entry, i) =>
    [i ? words.comma : "", make("a", {href: root + entry.url, textContent: entry.heading.split(" · ")[0]})]));
  found.dataset.of = input.value;
  const raw = [...new Set([...input.value.trim().toLowerCase().split(/\s+/), ...terms])];
  results.replaceChildren(...hits.slice(0, 40).map(([, entry]) => make("li", {}, Object.assign(make("a", {href: root + entry.url, lang: entry.lang},
    make("b", {}, entry.heading || entry.title, ...(entry.heading ? [make("span", {textContent: ` · ${entry.title}`})] : [])),
    make("small", {}, ...snippet(entry.text, raw)))))));
}
const openSearch = () => { dialog.showModal(); input.select(); load(); };
$(".search-button").addEventListener("click", openSearch);
input.addEventListener("input", search);
dialog.addEventListener("click", (event) => { if (event.target === dialog || event.target.closest(".found a, .results a")) dialog.close(); });
$(".close", dialog).addEventListener("click", () => dialog.close());
$("form", dialog).addEventListener("submit", (event) => {
  event.preventDefault();
  $(".results a")?.click();
});
dialog.addEventListener("keydown", (event) => {
  if (event.isComposing || event.keyCode === 229) return;  // these keys are the input method's
  if (event.key === "Escape") { event.preventDefault(); dialog.close(); }  // a search field would only be emptied
  if (!["ArrowDown", "ArrowUp"].includes(event.key)) return;
  const row = [input, ...$$(".found a, .results a")], at = row.indexOf(document.activeElement);
  row[Math.max(0, Math.min(row.length - 1, at + (event.key === "ArrowDown" ? 1 : -1)))].focus();
  event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea");
  if ((event.key === "/" && !typing) || (event.key === "k" && (event.ctrlKey || event.metaKey))) {
    event.preventDefault();
    if (!dialog.open) openSearch();
  }
});
