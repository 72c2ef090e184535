// Answers by mouse, key or finger; saving and loading; what begins when the page opens.

// Answers ------------------------------------------------------------------------------------

const COMMANDS = isReview
  ? {
      k: ["Keep", (item) => ["keep", item.given]],
      a: ["Accept", (item) => asClass(item.suggested)(item)],
      u: ["Unsure", () => ["unsure", ""]],
      x: ["Exclude", () => ["exclude", ""]],
    }
  : { u: ["unknown", () => ["unknown", ""]], s: ["skip", () => ["skip", ""]] };
const RESERVED = [..."aosuvxzknq"];
const KEYS = isReview
  ? [..."1234567890"]
  : [..."1234567890bcdefghijlmprtwy"].filter((key) => !RESERVED.includes(key));
let choices = []; // {key, button, answer, name}

/** An answer by the name of a class. */
function asClass(name) {
  return (item) => {
    if (!isReview) return ["class", name];
    if (name === item.given) return ["keep", name];
    return [name === item.suggested ? "accept" : "other", name];
  };
}

/** Other classes than the given and the suggested one, the most likely first. */
function otherClasses(item) {
  if (!item) return classes;
  const likely = item.likely.filter((name) => classes.includes(name));
  return [...new Set([...likely, ...classes])].filter(
    (name) => name !== item.given && name !== item.suggested,
  );
}

/** The images that the next answer is about. */
function targets() {
  if (marked.size) return items.filter((item) => marked.has(item.index));
  return view[current] ? [view[current]] : [];
}

function setAnswers(answered, answer) {
  if (!answered.length) return;
  const now = Date.now();
  const next = isReview && tab === RANDOM ? nextDrawn() : undefined;
  change(answered.map((item, i) => {
    const [, , , note, isDrawn] = entryOf(item);
    return [item.index, [...answer(item), now + i / 1000, note, item === next ? 1 : isDrawn]];
  }));
  const isCurrent = answered.length === 1 && answered[0] === view[current] && !marked.size;
  if (!isCurrent || tab === RANDOM) {
    const position = current;
    selectView();
    if (isCurrent) {
      showPage();
      select(position + 1, { focus: !isInPanel() });
    } else {
      show({ focus: !isInPanel() });
      say(`${counted(answered.length, noun)} answered; z undoes it.`);
    }
    return;
  }
  if (passes(answered[0])) {
    update(current);
    select(current + 1, { focus: !isInPanel() });
  } else {
    view.splice(current, 1);
    current = Math.max(0, Math.min(current, view.length - 1));
    showPage();
    select(current, { focus: !isInPanel() });
  }
}

function undo() {
  const step = stepBack();
  if (!step) return;
  const item = items[step[0][0]];
  if (!item.tabs.includes(tab)) tab = item.tabs[0];
  show({ at: item, focus: true, scroll: true });
  say(
    step.length > 1
      ? `${counted(step.length, "answer")} undone.`
      : `${nameOf(item)}: ${answerText(entryOf(item)) || "no answer"}`,
  );
}

// Buttons of the answers -----------------------------------------------------------------------

function choice(key, name, answer, kind) {
  const button = make("button", { type: "button", class: kind, title: name });
  if (key) button.append(make("kbd", {}, key), " ");
  button.append(make("span", {}, name));
  button.addEventListener("click", () => setAnswers(targets(), answer));
  choices.push({ key, button, answer, name });
  return button;
}

let shownChoices = "";

/** Of a review the classes are in another order for every image. */
function showChoices() {
  const item = view[current];
  const names = isReview ? otherClasses(item) : classes;
  const state = JSON.stringify([names, isReview && item?.given, isReview && item?.suggested]);
  if (state !== shownChoices) {
    shownChoices = state;
    choices = [];
    const fixed = Object.entries(COMMANDS).map(([key, [name, answer]]) => {
      const button = choice(key, name, answer, `fixed ${item ? answer(item)[0] : ""}`);
      const what = key === "k" ? item?.given : key === "a" ? item?.suggested : "";
      if (what && isReview) button.append(make("span", { class: "what" }, what));
      return button;
    });
    const inBar = names.slice(0, isReview ? KEYS.length : undefined);
    const named = inBar.map((name, i) => choice(KEYS[i], name, asClass(name), "class"));
    element("fixed").replaceChildren(...fixed);
    element("classes").replaceChildren(...named);
  }
  const [decision, label] = item ? entryOf(item) : noEntry;
  for (const { button, answer, name } of choices) {
    const [given, as] = item ? answer(item) : ["", ""];
    button.disabled = !item;
    button.setAttribute("aria-pressed", Boolean(decision) && given === decision && as === label);
    const isSuggested = !isReview && showsSuggestions && item?.suggested === name;
    button.classList.toggle("hinted", isSuggested);
  }
}

const matches = (name, wanted) => name.toLowerCase().includes(wanted.toLowerCase());

/** The classes in the panel, of which one is found by its name. */
function showFound() {
  const wanted = element("find").value.trim();
  const item = view[current];
  const names = isReview && item ? [item.given, item.suggested, ...otherClasses(item)] : classes;
  element("found").replaceChildren(
    ...[...new Set(names)].filter((name) => matches(name, wanted)).map((name) => {
      const button = make("button", { type: "button", class: "class" }, name);
      button.addEventListener("click", () => takeClass(name));
      return button;
    }),
  );
  const isNew = wanted && !classes.includes(wanted) && !["unknown", "skip"].includes(wanted);
  element("new").hidden = isReview || !isNew;
  element("new").textContent = `New class “${wanted}”`;
}

function takeClass(name) {
  const isNew = !classes.includes(name);
  addClass(name);
  element("find").value = "";
  showPanel("");
  setAnswers(targets(), asClass(name));
  const unknown = items.filter((item) => entryOf(item)[0] === "unknown").length;
  if (isNew && unknown) {
    element("again").hidden = false;
    element("again").textContent = `Look again at the ${counted(unknown, noun)} answered unknown`;
    say(`“${name}” is a class now. Images answered unknown before may belong to it.`);
  }
}

// State of the bar -----------------------------------------------------------------------------

function showState() {
  const asked = tab === RANDOM ? view : inTab();
  const done = asked.filter(isAnswered).length;
  element("progress").max = Math.max(asked.length, 1);
  element("progress").value = done;
  element("count").textContent =
    tab === RANDOM ? `${done} drawn` : `${done} of ${asked.length} answered`;
  element("undo").disabled = !history.length;
  for (const button of element("tabs").children) {
    button.setAttribute("aria-pressed", button.value === tab);
  }
  showChoices();
  if (!element("panel_other").hidden) showFound();
  showBulk();
  const isDone = tab !== RANDOM && asked.length > 0 && done === asked.length;
  element("done").hidden = !isDone;
  if (isDone && !element("done_text").textContent) sayDone();
  if (isReview) element("bound").textContent = boundText();
  element("random_intro").hidden = tab !== RANDOM;
  element("filters").hidden = tab === RANDOM;
  rememberPlace();
}

/** What can be answered at once: the images of a pair, or those that are selected. */
function showBulk() {
  const isPair = isReview && tab !== RANDOM && element("pair").value !== "all" && !marked.size;
  const number = isPair ? view.filter((item) => !isAnswered(item)).length : 0;
  element("bulk").hidden = !number && !marked.size;
  if (element("bulk").hidden) return;
  element("bulk_text").textContent = marked.size
    ? `${counted(marked.size, noun)} selected: the next answer is for all of them.`
    : `${number} unanswered of ${element("pair").value.slice(2)}:`;
  for (const [id, verb] of [["accept_all", "Accept"], ["keep_all", "Keep"]]) {
    element(id).hidden = !number;
    element(id).textContent = `${verb} all ${number}`;
  }
  element("unmark").hidden = !marked.size;
}

function sayDone() {
  element("done_text").textContent = `Nothing is left to answer here. ${
    server ? `${server} has every answer.` : `Save ${data.save_as} now. ${data.place}`
  } `;
  for (const { text, code } of data.after_saving) {
    element("done_text").append(make("span", {}, `${text} `));
    if (code) element("done_text").append(make("code", {}, code), " ");
  }
}

/** Where the table is written after every answer, the button says so and gives a copy. */
function showWritten() {
  if (server) element("save").textContent = unsent.size ? "Saving …" : "Saved ✓";
}

let waiting = 0;
function rememberPlace() {
  clearTimeout(waiting);
  waiting = setTimeout(storePlace, 300);
}
function storePlace() {
  keepPlace({
    id: view[current]?.id, tab, isSingle, showsSuggestions, size: element("size").value,
    shown: Object.fromEntries(
      [...element("filters").querySelectorAll("select, input")].map((one) => [one.id, one.value]),
    ),
  });
}

// Panels and keys ------------------------------------------------------------------------------

const PANELS = ["other", "view", "more"];
const isInPanel = () => Boolean(document.activeElement?.closest(".panel:not([hidden])"));

function showPanel(name) {
  for (const one of PANELS) {
    element(`panel_${one}`).hidden = one !== name;
    element(one).setAttribute("aria-expanded", one === name);
  }
  if (name === "other") {
    showFound();
    element("find").focus({ preventScroll: true });
  } else if (name) element(`panel_${name}`).querySelector("select, button, input")?.focus();
}
const toggle = (name) => showPanel(element(`panel_${name}`).hidden ? name : "");

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key.toLowerCase() !== "a" || event.altKey || isSingle) return;
    if (event.target.closest("input, select, textarea")) return;
    event.preventDefault();
    selectAll();
    return;
  }
  if (element("keys").open) return;
  if (event.key === "Escape" && !event.target.closest("#find")) {
    if (isInPanel() || PANELS.some((name) => !element(`panel_${name}`).hidden)) {
      showPanel("");
      select(current, { keepMarked: true });
    } else if (event.target.closest("#note")) element("single").focus();
    else if (marked.size) select(current);
    else showSingle(false);
    return;
  }
  if (event.target.closest("input:not([type=checkbox]), select, textarea")) return;
  const onButton = event.target.closest("button, summary, label, input, a");
  const step = event.shiftKey && !isSingle ? selectRange : select;
  const row = isSingle ? 1 : rowLength();
  const moves = {
    ArrowLeft: () => step(current - 1),
    ArrowRight: () => step(current + 1),
    ArrowUp: () => step(current - row),
    ArrowDown: () => step(current + row),
    Home: () => step(0),
    End: () => step(view.length - 1),
    PageUp: () => select((pageOf(current) - 1) * PAGE_SIZE),
    PageDown: () => select(Math.min((pageOf(current) + 1) * PAGE_SIZE, view.length - 1)),
    "+": () => isSingle && setZoom(zoom * 1.5),
    "=": () => isSingle && setZoom(zoom * 1.5),
    "-": () => isSingle && setZoom(zoom / 1.5),
    "?": () => element("keys").showModal(),
    o: () => toggle("other"),
    v: () => toggle("view"),
    z: undo,
    ...(isReview ? { n: () => { showSingle(true); element("note").focus(); } } : {}),
    ...(!isReview && showsSuggestions && view[current]?.suggested
      ? { a: () => setAnswers(targets(), (item) => ["class", item.suggested]) }
      : {}),
    ...(onButton ? {} : { Enter: () => showSingle(!isSingle) }),
  };
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const chosen = choices.find((one) => one.key === key);
  const act = moves[key] ?? (chosen && (() => chosen.button.click()));
  const always = [moves.z, moves.o, moves.v, moves["?"]];
  if (!act || (!view.length && !always.includes(act))) return;
  event.preventDefault();
  act();
}

function selectAll() {
  marked = new Set(view.map((item) => item.index));
  select(current, { keepMarked: true });
}

function findByKey(event) {
  const wanted = element("find").value.trim();
  if (event.key === "Escape") {
    element("find").value = "";
    showPanel("");
    select(current, { keepMarked: true });
  } else if (event.key === "Enter" && wanted) {
    const near = classes.filter((name) => matches(name, wanted));
    const same = near.filter((name) => name.toLowerCase() === wanted.toLowerCase());
    const found = [near.filter((name) => name === wanted), same, near];
    const [single] = found.find((names) => names.length === 1) ?? [];
    if (single !== undefined) takeClass(single);
    else say(near.length ? `${near.length} classes match “${wanted}”.` : "No class matches.");
  }
}

// Saving and loading ---------------------------------------------------------------------------

function save() {
  const content = toCsv([data.columns, ...savedRows()]);
  const link = make("a", { download: data.save_as });
  link.href = URL.createObjectURL(new Blob([content], { type: "text/csv;charset=utf-8" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  const next = data.after_saving.map(({ text, code }) => `${text} ${code}`.trim()).join(" ");
  const done = items.filter(isAnswered).length;
  say(`${data.save_as} has ${counted(done, "answer")} of ${items.length}. ${data.place} ${next}`);
}

async function load() {
  const [file] = element("load").files;
  if (!file) return;
  const [header, ...rows] = parseCsv(await file.text());
  element("load").value = "";
  const names = (header?.cells ?? []).map((name) => name.trim());
  const absent = ["id", "label"].filter((name) => !names.includes(name));
  if (absent.length) {
    say(`${file.name} has no column ${absent.join(", ")} in its first line.`);
    return;
  }
  const { taken, wrong } = takeTable(names, rows);
  show();
  const lines = `${wrong.slice(0, 5).join(", ")}${wrong.length > 5 ? ", ..." : ""}`;
  const left = wrong.length ? ` Left out, because no ${noun} or class fits: line ${lines}.` : "";
  say(`${counted(taken, "answer")} read from ${file.name}.${left}`);
}

// The page opens -------------------------------------------------------------------------------

const on = (id, name, act) => element(id).addEventListener(name, act);

function listen() {
  document.addEventListener("keydown", pressed);
  for (const name of PANELS) on(name, "click", () => toggle(name));
  on("find", "input", showFound);
  on("find", "keydown", findByKey);
  on("new", "click", () => takeClass(element("find").value.trim()));
  on("again", "click", () => {
    element("again").hidden = true;
    element("state").value = "unknown";
    element("state").dispatchEvent(new Event("change"));
  });
  on("one", "click", () => showSingle(!isSingle));
  on("save", "click", save);
  on("load", "change", load);
  on("undo", "click", undo);
  on("help", "click", () => element("keys").showModal());
  on("close_keys", "click", () => element("keys").close());
  on("restart", "click", () => {
    if (!confirm("Delete all answers given on this page?")) return;
    deleteAll();
    show();
    say("Started over; z undoes it.");
  });
  on("accept_all", "click", () => answerAll(COMMANDS.a[1]));
  on("keep_all", "click", () => answerAll(COMMANDS.k[1]));
  on("select_all", "click", selectAll);
  on("unmark", "click", () => select(current));
  on("show_all", "click", () => {
    clearFilters();
    show({ focus: true });
  });
  on("previous", "click", () => select((pageOf(current) - 1) * PAGE_SIZE));
  on("next", "click", () => select((pageOf(current) + 1) * PAGE_SIZE));
  on("folder", "change", redraw);
  on("size", "input", () => setSize(element("size").value));
  on("suggestions", "change", () => {
    showsSuggestions = element("suggestions").checked;
    redraw();
    showState();
  });
  window.addEventListener("storage", ({ key, newValue }) => {
    if (key !== data.key || !newValue) return;
    const theirs = JSON.parse(newValue);
    if (merge(theirs)) show();
    if (items.some((item) => entries.has(item.index) && !(item.index in theirs))) keep();
  });
  window.addEventListener("pagehide", storePlace);
  listenToFrame();
}

const answerAll = (answer) => setAnswers(view.filter((item) => !isAnswered(item)), answer);
const setSize = (size) => element("grid").style.setProperty("--size", `${size}rem`);

function showTabs() {
  const names = { labels: "Labels", duplicates: "Duplicates", outliers: "Outliers", random: "Random check" };
  const used = Object.entries(names).filter(([name]) => items.some((item) => item.tabs.includes(name)));
  element("tabs").hidden = used.length < 2;
  for (const [name, title] of used) {
    const number = items.filter((item) => item.tabs.includes(name)).length;
    const text = name === RANDOM ? title : `${title} (${number})`;
    const button = make("button", { type: "button", value: name }, text);
    button.addEventListener("click", () => {
      tab = name;
      clearFilters();
      current = 0;
      show({ at: tab === RANDOM ? nextDrawn() : undefined, focus: true });
    });
    element("tabs").append(button);
  }
}

function open() {
  const { place, restored } = start();
  element("folder").value = data.folder;
  element("folders").hidden = Boolean(server) || !data.folder || data.pictures.length >= items.length;
  element("limits").hidden = element("random_note").hidden = !isReview;
  element("notes").hidden = !isReview;
  element("hint").hidden = isReview || !items.some((item) => item.suggested);
  placeClasses();
  addFilters();
  showTabs();
  listen();
  showsSuggestions = element("suggestions").checked = place.showsSuggestions ?? true;
  if (place.size) setSize((element("size").value = place.size));
  const used = [...element("tabs").children].map((button) => button.value);
  if (used.length) tab = used.includes(place.tab) ? place.tab : used[0];
  for (const [id, value] of Object.entries(place.shown ?? {})) {
    const one = element(id);
    if (!one || ![...(one.options ?? [])].some((option) => option.value === value)) continue;
    one.value = value;
    if (id !== "order") one.dispatchEvent(new Event("change"));
  }
  const at = itemById.get(place.id);
  selectView();
  const isResumed = Boolean(at) && view.indexOf(at) > 0;
  show({ at: at ?? view[0], focus: true, scroll: isResumed });
  if (place.isSingle) showSingle(true);
  if (restored) say(`${counted(restored, "answer")} of your last visit ${restored === 1 ? "is" : "are"} restored.`);
  if (server) {
    receive().then(() => {
      show({ focus: true });
      say(`Every answer is written to ${server}.`);
    });
  }
}

open();
