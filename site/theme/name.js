// "Name your run": looks verdicts up in tables that the Python rules filled. It knows no rule.
"use strict";
const digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const {facts, coupled, follows, schools, tables, cases} = nameData;
const says = JSON.parse($(".naming").dataset.texts);
const wordKeys = ["fine_tuning", "transfer_learning"];
let state = [...nameData.default];

function verdict(run, school, word) {
  const [looksAt, outcomes, cells] = tables[school][word];
  let place = 0;
  for (const fact of looksAt) place = place * facts[fact][1].length + run[fact];
  return outcomes[digits.indexOf(cells[place])];
}
// The nearest run that can exist with this answer.
function changed(run, fact, value) {
  const next = [...run], at = coupled.indexOf(fact);
  if (at < 0) { next[fact] = value; return next; }
  [...follows[coupled.map((f) => run[f]).join("") + at + value]].forEach((digit, i) => { next[coupled[i]] = +digit; });
  return next;
}
const flipsOf = (run, other) => schools.flatMap((_, s) => wordKeys.map((_, w) =>
  [s, w, verdict(run, s, w)[0], verdict(other, s, w)[0]])).filter(([, , before, after]) => before !== after);
function changesOf(run) {
  const seen = new Map();
  facts.forEach(([, values], fact) => values.forEach((_, value) => {
    const other = changed(run, fact, value);
    if (value !== run[fact] && !seen.has(other.join())) seen.set(other.join(), {fact, value, run: other, flips: flipsOf(run, other)});
  }));
  return [...seen.values()];
}
const meaning = (fact, value) => facts[fact][2][value];
const word = (answer) => answer === null ? says.none : answer ? says.yes : says.no;
const inAddress = (run) => facts.map(([id, values], f) => run[f] === nameData.default[f] ? null : `${id}=${values[run[f]]}`)
  .filter(Boolean).join("&") || "carrier=parameters";
function fromAddress() {
  let run = [...nameData.default];
  const given = new URLSearchParams(location.hash.slice(1));
  for (let round = 0; round < 2; round++) {
    facts.forEach(([id, values], fact) => {
      const value = values.indexOf(given.get(id));
      if (value >= 0 && run[fact] !== value) run = changed(run, fact, value);
    });
  }
  const understood = [...given].every(([id, text]) => facts.some(([fact, values], f) => fact === id && values[run[f]] === text));
  $("#also").textContent = understood ? "" : says.damaged;
  return run;
}
function inPython(run) {
  const parts = facts.map(([id, values], f) => run[f] === nameData.default[f] ? null :
    `${id}=${{yes: "True", no: "False"}[values[run[f]]] ?? `"${values[run[f]]}"`}`).filter(Boolean);
  const indent = parts.join(", ").length > 60 ? `\n    ${parts.join(",\n    ")},\n` : parts.join(", ");
  return `from ft_tutorial import Run, name_run\n\nname_run(Run(${indent}))`;
}

function showVerdicts() {
  const counts = wordKeys.map(() => [0, 0]);
  schools.forEach(([id], s) => wordKeys.forEach((key, w) => {
    const [answer, reason, name] = verdict(state, s, w);
    if (answer !== null) { counts[w][1]++; counts[w][0] += answer; }
    const cell = $(`[data-school="${id}"] [data-word="${key}"]`);
    cell.replaceChildren(make("span", {className: `verdict ${answer ? "yes" : answer === null ? "none" : "no"}`, textContent: word(answer)}),
      ...(name ? [make("span", {className: "verdict own", textContent: name})] : []),
      make("span", {className: "because", textContent: reason}));
  }));
  const values = [...counts[0], ...counts[1]];
  const text = says.summary.replace(/\{([abcd])\}/g, (_, letter) => values["abcd".indexOf(letter)]);
  $("#summary").textContent = text;
  $("#bar").textContent = text;
}
function showFlips() {
  const changes = changesOf(state).filter((change) => change.flips.length);
  $("#flip-list").replaceChildren(...changes.map((change) => {
    const button = make("button", {type: "button", textContent: meaning(change.fact, change.value)});
    button.dataset.change = `${facts[change.fact][0]}=${facts[change.fact][1][change.value]}`;
    button.addEventListener("click", () => { go(change.run, change.fact, true); $("#summary").scrollIntoView({block: "center"}); });
    const rows = wordKeys.map((key, w) => {
      const flips = change.flips.filter((flip) => flip[1] === w);
      return flips.length ? make("p", {}, says[key] + says.colon, ...flips.flatMap(([s, , , after], i) => [i ? " · " : "",
        make("span", {className: after ? "plus" : "", textContent: `${after === null ? "?" : after ? "+" : "−"} ${schools[s][1]}`})])) : "";
    });
    return make("li", {}, make("div", {}, button), make("div", {}, ...rows));
  }));
  for (const [f, [id, values]] of facts.entries()) values.forEach((value, v) => {
    const count = flipsOf(state, changed(state, f, v)).length, badge = $(`input[name="${id}"][value="${value}"] + span .flip`);
    badge.textContent = count || "";
    badge.title = count ? says.count.replace("{n}", count) : "";
    badge.nextElementSibling.textContent = count ? says.comma + badge.title : "";
  });
}
const first = "linear-probe";
let chosen = first;
function showState() {
  for (const [f, [id, values]] of facts.entries()) $(`input[name="${id}"][value="${values[state[f]]}"]`).checked = true;
  const same = cases.filter(([, run]) => run.join() === state.join());
  const known = same.find(([id]) => id === chosen) ?? same[0];
  $("#case").value = known ? known[0] : "";
  $("#point").textContent = known ? known[2] : "";
  $("#code").textContent = inPython(state);
  $(".language").hash = inAddress(state);
  showVerdicts();
  showFlips();
}
const runOf = (id) => [...cases.find(([known]) => known === id)[1]];
// `fact` is what the reader answered; `step` makes a place in the history to come back to.
function go(run, fact = null, step = false) {
  const others = fact === null ? [] : facts.map((_, f) => f).filter((f) => f !== fact && run[f] !== state[f]);
  $("#also").textContent = others.length ? `${says.also} ${others.map((f) => meaning(f, run[f])).join(says.comma)}` : "";
  state = run;
  const address = `#${inAddress(run)}`;
  const write = step && address !== location.hash ? "pushState" : "replaceState";
  try { history[write](null, "", address); } catch { location.replace(address); }
  showState();
}
$(".questions").addEventListener("change", (event) => {
  if (event.target.type !== "radio") return;
  const fact = facts.findIndex(([id]) => id === event.target.name);
  go(changed(state, fact, facts[fact][1].indexOf(event.target.value)), fact);
});
$("#case").addEventListener("change", (event) => {
  const known = cases.find(([id]) => id === event.target.value);
  if (known) { chosen = known[0]; go([...known[1]], null, true); }
});
$("#share").addEventListener("click", (event) => copy(event.target, `${location.href.split("#")[0]}#${inAddress(state)}`, says.share));
$("#reset").addEventListener("click", () => { chosen = first; go(runOf(first), null, true); });
// The address holds the answers, so what leads to a place on this page must not replace them.
const hasState = () => location.hash.includes("=");
addEventListener("hashchange", () => { if (hasState()) { state = fromAddress(); showState(); } });
document.addEventListener("click", (event) => {
  const link = event.target.closest("#bar, .naming .anchor, .skip");
  if (!link) return;
  event.preventDefault();
  const target = document.getElementById(link.hash.slice(1));
  target.scrollIntoView();
  if (link.matches(".skip")) { target.tabIndex = -1; target.focus({preventScroll: true}); }
});
if (hasState()) { state = fromAddress(); showState(); } else go(runOf(first));
