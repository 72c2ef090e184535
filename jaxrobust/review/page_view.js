// Which images are shown, in which order, and their cards.

const PAGE_SIZE = 100;
const element = (id) => document.getElementById(id);
const say = (text) => {
  element("status").textContent = text;
};
const percent = (fraction) => `${(100 * fraction).toFixed(1)}\u00a0%`;
const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

let tab = "labels";
let view = []; // items that pass the filters, in order
let current = 0; // position in the view
let marked = new Set(); // indices of the images that the next answer is about; empty: the current
let cards = new Map(); // index -> element, of the page that is shown
let showsSuggestions = true;
const pageOf = (position) => Math.floor(position / PAGE_SIZE);

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Pictures -----------------------------------------------------------------------------------

function address(item) {
  let folder = server ? "images" : element("folder").value.trim();
  if (!folder || !item.file) return "";
  if (!/^[a-z]+:\/\//i.test(folder)) folder = folder.split("/").map(encodeName).join("/");
  const file = item.file.split("/").map(encodeName).join("/");
  return `${folder.replace(/\/+$/, "")}/${file}`;
}

function magnify(image) {
  image.addEventListener("load", () => {
    const side = Math.max(image.naturalWidth, image.naturalHeight);
    image.classList.toggle("small", side <= data.small);
  });
}

const nameOf = (item) => item.file || `${noun} ${item.id}`;

/** The image, from the first of these addresses that can be shown. */
function picture(item, addresses) {
  const [source, ...others] = addresses.filter(Boolean);
  if (data.texts) return make("span", { class: "words" }, data.texts[item.index]);
  if (!source) return make("span", { class: "none" }, "no image");
  const image = make("img", { src: source, alt: nameOf(item), draggable: "false" });
  magnify(image);
  image.addEventListener("error", () => image.replaceWith(picture(item, others)));
  return image;
}

const thumbnail = (item) => picture(item, [data.pictures[item.index], address(item)]);
const wholeImage = (item) => picture(item, [address(item), data.pictures[item.index]]);

// Filters and order --------------------------------------------------------------------------

const collator = new Intl.Collator(undefined, { numeric: true });
const byFile = (a, b) => collator.compare(a.file, b.file) || a.index - b.index;
const ORDERS = {
  suspicion: (a, b) => a.index - b.index,
  file: byFile,
  class: (a, b) => collator.compare(a.given, b.given) || a.index - b.index,
};
const filters = {}; // name -> test of an item
const pairOf = (item) => `${item.given} → ${item.suggested}`;
const inTab = () => items.filter((item) => item.tabs.includes(tab));
const RANDOM = "random";

/** A list to choose from: options() gives [value, text, test], the first of which is all images. */
function addFilter(id, title, options) {
  const list = make("select", { id });
  const fill = () => {
    const chosen = list.value;
    const found = options();
    list.replaceChildren(...found.map(([value, name]) => make("option", { value }, name)));
    list.value = found.some(([value]) => value === chosen) ? chosen : "all";
  };
  filters[id] = () => true;
  list.addEventListener("change", () => {
    filters[id] = options().find(([value]) => value === list.value)[2];
    show();
  });
  list.fill = fill;
  fill();
  element("filters").append(make("label", {}, title, list));
}

function groups(keyOf) {
  const counts = new Map();
  for (const item of inTab()) counts.set(keyOf(item), (counts.get(keyOf(item)) ?? 0) + 1);
  return [...counts]
    .sort((a, b) => b[1] - a[1] || collator.compare(a[0], b[0]))
    .map(([name, number]) => [`= ${name}`, `${name} (${number})`, (item) => keyOf(item) === name]);
}

function addFilters() {
  const all = ["all", "all", () => true];
  const as = (decision, label) => (item) => {
    const entry = entryOf(item);
    return entry[0] === decision && (label === undefined || entry[1] === label);
  };
  const decisions = isReview
    ? ["keep", "accept", "other", "unsure", "exclude"].map((name) => [name, name, as(name)])
    : [];
  addFilter("state", "Show", () => [
    all,
    ["unanswered", "unanswered", (item) => !isAnswered(item)],
    ["answered", "answered", isAnswered],
    ...decisions,
    ...(isReview ? [] : classes.map((name) => [`= ${name}`, `class ${name}`, as("class", name)])),
    ...(isReview ? [] : ["unknown", "skip"].map((name) => [name, name, as(name, "")])),
  ]);
  if (!isReview) return;
  addFilter("given", "Given label", () => [all, ...groups((item) => item.given)]);
  addFilter("pair", "Given → suggested", () => [all, ...groups(pairOf)]);
  const list = make("select", { id: "order" });
  for (const name of Object.keys(ORDERS)) list.append(make("option", { value: name }, name));
  list.addEventListener("change", () => show());
  element("filters").append(make("label", {}, "Sort by", list));
  const limit = element("limit");
  filters.limit = (item) => item.probability <= limit.value / 100;
  limit.addEventListener("input", () => {
    element("limit_text").textContent = `at most ${limit.value} %`;
    show();
  });
}

function clearFilters() {
  for (const list of element("filters").querySelectorAll("select:not(#order)")) {
    list.value = "all";
    filters[list.id] = () => true;
  }
  element("limit").value = 100;
  element("limit_text").textContent = "at most 100 %";
}

/** Of the random check those that were drawn, and the next one: to see more would be to choose. */
function nextDrawn() {
  return data.random.map((index) => items[index]).find((item) => !isAnswered(item));
}

const passes = (item) => Object.values(filters).every((test) => test(item));

function selectView() {
  if (tab === RANDOM) {
    view = data.random.map((index) => items[index]).filter((item) => entryOf(item)[4]);
    const next = nextDrawn();
    if (next) view.push(next);
    return;
  }
  view = inTab().filter(passes);
  if (isReview) view.sort(ORDERS[element("order").value]);
}

// Cards --------------------------------------------------------------------------------------

/** Facts on an image: [name of the fact, text]. */
function facts(item) {
  const found = [];
  if (isReview) {
    found.push(["given", `given: ${item.given}`], ["suggested", `suggested: ${item.suggested}`]);
    found.push(["right", `given label right: ${percent(item.probability)}`]);
    if (item.finding) found.push(["finding", item.finding]);
  } else if (showsSuggestions && item.suggested) {
    found.push(["suggested", `suggested: ${item.suggested}, ${percent(item.probability)}`]);
  }
  return found;
}

function card(item) {
  const made = make(
    "div",
    { class: "card", role: "option", id: `card${item.index}`, tabindex: "-1" },
    make("span", { class: "picture" }, thumbnail(item)),
    make("span", { class: "name", title: item.file }, nameOf(item).split("/").pop()),
    ...facts(item).map(([kind, text]) => make("span", { class: `fact ${kind}` }, text)),
    make("span", { class: "answer" }),
  );
  made.addEventListener("click", (event) => clicked(item, event));
  made.addEventListener("dblclick", () => showSingle(true));
  return made;
}

function clicked(item, event) {
  const position = view.indexOf(item);
  if (event.shiftKey) return selectRange(position);
  if (event.ctrlKey || event.metaKey || element("several").checked) {
    if (!marked.size && !element("several").checked) marked.add(view[current].index);
    if (!marked.delete(item.index)) marked.add(item.index);
    return select(position, { keepMarked: true });
  }
  return select(position);
}

/** All between the first marked or the current image and a position. */
function selectRange(position) {
  const end = Math.max(0, Math.min(position, view.length - 1));
  const anchor = marked.size ? view.findIndex((item) => marked.has(item.index)) : current;
  const last = marked.size ? view.findLastIndex((item) => marked.has(item.index)) : current;
  const start = current === anchor ? last : anchor;
  marked = new Set(
    view.slice(Math.min(start, end), Math.max(start, end) + 1).map((item) => item.index),
  );
  select(end, { keepMarked: true });
}

function update(position) {
  const item = view[position];
  const made = item && cards.get(item.index);
  if (!made) return;
  const entry = entryOf(item);
  const isCurrent = position === current;
  made.dataset.decision = entry[0];
  made.classList.toggle("current", isCurrent);
  made.querySelector(".answer").textContent = answerText(entry) || "–";
  made.setAttribute("aria-selected", marked.size ? marked.has(item.index) : isCurrent);
  made.tabIndex = isCurrent ? 0 : -1;
  const texts = [`${position + 1} of ${view.length}`, nameOf(item)];
  texts.push(...facts(item).map(([, text]) => text), answerText(entry) || "no answer");
  made.setAttribute("aria-label", texts.join(", "));
}

function showPage() {
  const first = pageOf(current) * PAGE_SIZE;
  const shown = view.slice(first, first + PAGE_SIZE);
  // A card that stays keeps its picture.
  cards = new Map(shown.map((item) => [item.index, cards.get(item.index) ?? card(item)]));
  const grid = element("grid");
  const wanted = [...cards.values()];
  if (wanted.length !== grid.children.length || wanted.some((one, i) => one !== grid.children[i])) {
    grid.replaceChildren(...wanted);
  }
  shown.forEach((_, i) => update(first + i));
  const last = first + shown.length;
  element("place").textContent = `${first + 1} to ${last} of ${view.length}`;
  element("previous").disabled = first === 0;
  element("next").disabled = first + PAGE_SIZE >= view.length;
  element("paging").hidden = isSingle || view.length <= PAGE_SIZE;
  element("nothing").hidden = view.length > 0;
}

/** Draws all cards again. */
function redraw() {
  cards = new Map();
  showPage();
  if (isSingle) drawSingle();
}

function select(position, { focus = true, keepMarked = false, scroll = true } = {}) {
  const had = marked.size;
  if (!keepMarked) marked = new Set();
  if (!view.length) return showState();
  const before = current;
  current = Math.max(0, Math.min(position, view.length - 1));
  if (had || marked.size || pageOf(before) !== pageOf(current)) showPage();
  else update(before);
  update(current);
  showState();
  if (isSingle) return drawSingle();
  const made = cards.get(view[current].index);
  if (focus) made.focus({ preventScroll: true });
  if (!scroll) return undefined;
  const bar = element("bar").getBoundingClientRect();
  made.style.scrollMarginTop = `${bar.height + 8}px`;
  made.scrollIntoView({ block: "nearest" });
}

/** Applies the filters again, at the image `at` if it passes them, else at the first. */
function show({ at = view[current], focus = false, scroll = false } = {}) {
  selectView();
  for (const list of element("filters").querySelectorAll("select")) list.fill?.();
  marked = new Set();
  current = Math.max(0, view.indexOf(at));
  showPage();
  if (focus || scroll || isSingle) select(current, { focus, scroll });
  else showState();
}

/** Cards in a row of the grid. */
function rowLength() {
  const [first, ...others] = element("grid").children;
  const next = others.findIndex((other) => other.offsetTop > first.offsetTop);
  return next < 0 ? others.length + 1 : next + 1;
}
