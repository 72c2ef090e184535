// The images, the answers to them, and where the answers are kept: in the browser, by other tabs
// and, if `jaxrobust review` shows the page, in the table that it writes.

const data = JSON.parse(document.getElementById("data").textContent);
const isReview = data.kind === "review";
const noun = data.texts ? "text" : "image";
const column = Object.fromEntries(data.columns.map((name, i) => [name, i]));
const classes = [...data.classes];

const items = data.rows.map((row, index) => {
  if (!isReview) {
    const [suggested, probability] = data.suggestions[index] ?? ["", 0];
    const file = unescapeFormula(row[column.file]);
    return { index, id: row[column.id], file, row, suggested, probability, tabs: ["labels"] };
  }
  const [id, file, given, suggested, probability, likely, tabs, finding] = row;
  const names = likely.map((i) => data.classes[i]);
  return { index, id, file, given, suggested, probability, likely: names, tabs, finding };
});
const itemById = new Map(items.map((item) => [item.id, item]));

// An entry is [decision, label, time, note, drawn]. Of an annotation the decision is "class",
// "unknown" or "skip", of a review "keep", "accept", "other", "unsure" or "exclude"; "" for none.
// `drawn` is 1 if the image was the next one of the random check when it was answered.
const entries = new Map(); // index -> entry
const history = []; // steps back, each a list of [index, entry before]
const MAX_STEPS = 2000;

const noEntry = ["", "", 0, "", 0];
const entryOf = (item) => entries.get(item.index) ?? noEntry;
const isAnswered = (item) => Boolean(entryOf(item)[0]);
const noteOf = (item) => entryOf(item)[3];

function addClass(name) {
  if (!classes.includes(name)) classes.push(name);
}

const DECISIONS = { keep: "kept", accept: "accepted", other: "changed to" };

function answerText([decision, label]) {
  if (!isReview) return decision === "class" ? label : decision;
  return decision in DECISIONS ? `${DECISIONS[decision]}: ${label}` : { exclude: "excluded" }[decision] ?? decision;
}

// Tables -------------------------------------------------------------------------------------

function labelCell([decision, label]) {
  if (isReview) return decision in DECISIONS ? escapeFormula(label) : "";
  return decision === "class" ? escapeFormula(label) : decision;
}

/** The rows of the table; of a review those with an answer or a note, in the order of answering. */
function savedRows() {
  if (!isReview) {
    return items.map((item) =>
      item.row.map((cell, i) => (i === column.label ? labelCell(entryOf(item)) : cell)),
    );
  }
  return items
    .filter((item) => isAnswered(item) || noteOf(item))
    .sort((a, b) => entryOf(a)[2] - entryOf(b)[2] || a.index - b.index)
    .map((item) => {
      const entry = entryOf(item);
      const texts = [item.file, item.given].map(escapeFormula);
      const more = [entry[4] ? "1" : "0", escapeFormula(entry[3])];
      return [item.id, ...texts, labelCell(entry), entry[0], ...more];
    });
}

/** The answer in cells by column name; null if there is none, undefined if it is invalid. */
function answerInCells(item, cells) {
  const written = (cells.label ?? "").trim();
  const label = classes.includes(written) ? written : unescapeFormula(written);
  if (!isReview) {
    if (!written) return null;
    return ["unknown", "skip"].includes(written) ? [written, ""] : ["class", label];
  }
  if (["unsure", "exclude"].includes(cells.decision)) return [cells.decision, ""];
  if (!written) return cells.note ? ["", ""] : null;
  if (!classes.includes(label)) return undefined;
  if (label === item.given) return ["keep", label];
  return [label === item.suggested && cells.decision !== "other" ? "accept" : "other", label];
}

/** Takes the answers of a table; returns how many, and the lines that fit no image or class. */
function takeTable(names, rows) {
  const wrong = [], step = [], now = Date.now();
  for (const { line, cells } of rows) {
    const named = Object.fromEntries(names.map((name, i) => [name, (cells[i] ?? "").trim()]));
    const item = itemById.get(named.id);
    const answer = item && answerInCells(item, named);
    if (answer === undefined) wrong.push(line);
    else if (answer) {
      const note = unescapeFormula(named.note ?? "");
      const entry = [...answer, now + step.length / 1000, note, named.drawn === "1" ? 1 : 0];
      step.push([item.index, entry]);
    }
  }
  change(step);
  return { taken: step.length, wrong };
}

// Changes ------------------------------------------------------------------------------------

/** Sets entries, [index, entry] each, as one step that can be undone. */
function change(step) {
  if (!step.length) return;
  history.push(step.map(([index]) => [index, entries.get(index) ?? noEntry]));
  let kept = history.reduce((sum, one) => sum + one.length, 0);
  while (history.length > 1 && kept > MAX_STEPS) kept -= history.shift().length;
  put(step);
}

function put(step) {
  for (const [index, entry] of step) {
    entries.set(index, entry);
    if (entry[0] === "class") addClass(entry[1]);
  }
  keep();
  send(step.map(([index]) => index));
}

/** Takes the last step back; returns it, or nothing. */
function stepBack() {
  const step = history.pop();
  if (!step) return undefined;
  const now = Date.now();
  put(step.map(([index, [decision, label, , note, drawn]]) => [
    index, [decision, label, now, note, drawn],
  ]));
  return step;
}

/** Takes entries that are newer than those here, by index; whether there were some. */
function merge(others) {
  let changed = false;
  for (const [key, [decision, label, time = 0, note = "", drawn = 0]] of Object.entries(others)) {
    const item = items[key];
    if (!item || (entries.has(item.index) && time <= entryOf(item)[2])) continue;
    entries.set(item.index, [decision, label, time, note, drawn]);
    if (decision === "class") addClass(label);
    changed = true;
  }
  return changed;
}

// Storage in the browser -----------------------------------------------------------------------

let lastStored = null; // what this tab has read or written

function read(key) {
  try {
    const text = localStorage.getItem(key);
    return { text, value: JSON.parse(text ?? "{}") ?? {} };
  } catch {
    return { text: null, value: {} };
  }
}

/** Stores the entries, with those that other tabs have stored since. */
function keep() {
  try {
    if (localStorage.getItem(data.key) !== lastStored) merge(read(data.key).value);
    lastStored = JSON.stringify(Object.fromEntries(entries));
    localStorage.setItem(data.key, lastStored);
  } catch {
    if (!server) say("This browser does not store the answers: save before you close the page.");
  }
}

/** Where the person is, which the next visit begins with. */
function keepPlace(place) {
  try {
    localStorage.setItem(`${data.key} place`, JSON.stringify({ ...place, history }));
  } catch { /* said by keep() */ }
}

function start() {
  for (const item of isReview ? [] : items) {
    const answer = answerInCells(item, { label: item.row[column.label] });
    if (answer) entries.set(item.index, [...answer, 0, "", 0]);
  }
  const stored = read(data.key);
  merge(stored.value);
  lastStored = stored.text;
  const place = read(`${data.key} place`).value;
  const known = ([index, entry]) => items[index] && Array.isArray(entry);
  for (const step of place.history ?? []) if (step.every(known)) history.push(step);
  return { place, restored: Object.values(stored.value).filter((entry) => entry[0]).length };
}

function deleteAll() {
  const now = Date.now();
  const given = items.filter((item) => isAnswered(item) || noteOf(item));
  change(given.map((item) => [item.index, ["", "", now, "", 0]]));
}

// The table that `jaxrobust review` writes -------------------------------------------------------

const server = document.querySelector('meta[name="jaxrobust-server"]')?.content; // the table's path
const unsent = new Set();
let isSending = false;

async function send(indices) {
  if (!server) return;
  for (const index of indices) unsent.add(index);
  if (isSending) return;
  isSending = true;
  while (unsent.size) {
    const sent = [...unsent];
    showWritten();
    unsent.clear();
    const body = JSON.stringify(Object.fromEntries(sent.map((i) => [i, entries.get(i)])));
    try {
      const headers = { "Content-Type": "application/json" };
      const reply = await fetch("answers", { method: "POST", headers, body });
      if (!reply.ok) throw new Error(await reply.text());
    } catch (error) {
      for (const index of sent) unsent.add(index);
      const why = error instanceof TypeError ? "jaxrobust review does not answer" : error.message;
      say(`Not written to ${server}: ${why}. This browser keeps the answers; type the command again.`);
      setTimeout(() => send([]), 3000);
      break;
    }
  }
  isSending = false;
  showWritten();
}

async function receive() {
  try {
    const reply = await fetch("answers");
    const written = await reply.json();
    merge(written);
    const isNewer = (item) => entryOf(item)[2] > (written[item.index]?.[2] ?? 0);
    await send(items.filter(isNewer).map((item) => item.index));
  } catch {
    say("jaxrobust review does not answer; this browser keeps the answers.");
  }
}
