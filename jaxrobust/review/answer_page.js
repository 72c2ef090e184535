"use strict";
// Shows images, takes an answer for each by mouse or key, stores the answers in the browser, and
// saves and loads them as CSV. Text from files is inserted only as textContent.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);
  const isReview = data.kind === "review";
  const PAGE_SIZE = 100;

  // Tables -----------------------------------------------------------------------------------

  // As jaxrobust.data.names, which see.
  const ODD = "[\\x00-\\x08\\x0a-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff\\ufffe\\uffff]";
  const CODE = "(?:\\\\|[nrt]|x[0-9a-f]{2}|u[0-9a-f]{4})";
  const PAIR = "[\\ud800-\\udbff][\\udc00-\\udfff]"; // a letter beyond 16 bits, which stays
  const toEscape = new RegExp(`(${PAIR})|\\\\(?=${CODE}|${ODD})|${ODD}`, "g");
  const CODES = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" };
  const LETTERS = { "\\": "\\", n: "\n", r: "\r", t: "\t" };
  const hex = (number, length) => number.toString(16).padStart(length, "0");
  const isByte = (number) => number >= 0xdc80 && number <= 0xdcff;
  const escapeName = (text) => text.replace(toEscape, (mark, pair) => {
    const number = mark.charCodeAt(0);
    if (pair) return pair;
    if (isByte(number)) return `\\x${hex(number - 0xdc00, 2)}`;
    return CODES[mark] ?? `\\u${hex(number, 4)}`;
  });
  const restoreName = (text) => text.replace(new RegExp(`\\\\(${CODE})`, "g"), (_, code) => {
    if (code.length === 1) return LETTERS[code];
    return String.fromCharCode(parseInt(code.slice(1), 16) + (code[0] === "x" ? 0xdc00 : 0));
  });
  /** A part of a path, percent-encoded byte by byte. */
  const encodeName = (text) => [...text].map((letter) => {
    const number = letter.charCodeAt(0);
    if (letter.length > 1 || number < 0xd800 || number > 0xdfff) return encodeURIComponent(letter);
    return isByte(number) ? `%${hex(number - 0xdc00, 2)}` : "%EF%BF%BD";
  }).join("");

  // As escape_formula and unescape_formula of jaxrobust.data.tables.
  const escapeFormula = (text) => escapeName(text).replace(/^(?=[=+\-@\t\r'])/, "'");
  const unescapeFormula = (text) => restoreName(text.startsWith("'") ? text.slice(1) : text);
  const quote = (cell) => (/[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
  const toCsv = (rows) => `\uFEFF${rows.map((row) => `${row.map(quote).join(",")}\n`).join("")}`;

  /** Rows of cells with their line numbers; commas, semicolons or tabs as in the first line. */
  function parseCsv(text) {
    text = text.replace(/^\uFEFF/, "");
    const header = text.split("\n", 1)[0];
    const count = (mark) => header.split(mark).length;
    const delimiter = [",", ";", "\t"].sort((a, b) => count(b) - count(a))[0];
    const rows = [];
    let cells = [], cell = "", line = 1, start = 1, quoted = false;
    const endRow = () => {
      cells.push(cell);
      if (cells.some(Boolean)) rows.push({ line: start, cells });
      cells = [];
      cell = "";
    };
    for (let i = 0; i < text.length; i++) {
      const mark = text[i];
      if (mark === "\n") line++;
      if (quoted) {
        if (mark !== '"') cell += mark;
        else if (text[i + 1] === '"') cell += text[++i];
        else quoted = false;
      } else if (mark === '"' && !cell) quoted = true;
      else if (mark === delimiter) {
        cells.push(cell);
        cell = "";
      } else if (mark === "\n") {
        endRow();
        start = line;
      } else if (mark !== "\r") cell += mark;
    }
    if (cell || cells.length) endRow();
    return rows;
  }

  // Images and their answers -----------------------------------------------------------------

  // An answer is [decision, label]. Of an annotation the decision is "class", "unknown" or "skip";
  // of a review "keep", "accept", "other" or "unsure".
  const column = Object.fromEntries(data.columns.map((name, i) => [name, i]));
  const items = data.rows.map((row, index) =>
    isReview
      ? { index, id: row[0], file: row[1], given: row[2], suggested: row[3], probability: row[4] }
      : { index, id: row[column.id], file: unescapeFormula(row[column.file]), row },
  );
  const answers = new Map(); // index -> answer
  const history = []; // [index, answer before]
  const classes = [...data.classes];

  function labelCell([decision, label]) {
    if (isReview) return decision === "unsure" ? "" : escapeFormula(label);
    return decision === "class" ? escapeFormula(label) : decision;
  }

  function savedRows() {
    if (!isReview) {
      return items.map(({ index, row }) =>
        row.map((cell, i) => {
          if (i !== column.label) return cell;
          return answers.has(index) ? labelCell(answers.get(index)) : "";
        }),
      );
    }
    return items.filter(({ index }) => answers.has(index)).map((item) => {
      const answer = answers.get(item.index);
      const texts = [item.file, item.given].map(escapeFormula);
      return [item.id, ...texts, labelCell(answer), answer[0]];
    });
  }

  /** The answer in cells by column name; null if there is none, undefined if it is invalid. */
  function answerOf(item, cells) {
    const written = (cells.label ?? "").trim();
    const label = classes.includes(written) ? written : unescapeFormula(written);
    if (!isReview) {
      if (!written) return null;
      if (written === "unknown" || written === "skip") return [written, ""];
      return ["class", label];
    }
    if (cells.decision === "unsure") return ["unsure", ""];
    if (!written) return null;
    if (!classes.includes(label)) return undefined;
    if (label === item.given) return ["keep", label];
    return [label === item.suggested && cells.decision !== "other" ? "accept" : "other", label];
  }

  function answerText(answer) {
    if (!answer) return "";
    const [decision, label] = answer;
    if (!isReview) return decision === "class" ? label : decision;
    return decision === "unsure" ? "unsure" : `${decision}: ${label}`;
  }

  function addClass(name) {
    if (!classes.includes(name)) classes.push(name);
  }

  // Storage in the browser ---------------------------------------------------------------------

  function keep() {
    const kept = Object.fromEntries([...answers].map(([index, answer]) => [index, answer]));
    try {
      localStorage.setItem(data.key, JSON.stringify(kept));
    } catch {
      say("This browser does not store the answers: save before you close the page.");
    }
  }

  function start(stored) {
    answers.clear();
    for (const item of isReview ? [] : items) {
      const answer = answerOf(item, { label: item.row[column.label] });
      if (answer) answers.set(item.index, answer);
    }
    for (const [index, answer] of Object.entries(stored)) {
      if (items[index]) answers.set(Number(index), answer);
    }
    for (const [decision, label] of answers.values()) if (decision === "class") addClass(label);
  }

  function restored() {
    try {
      const stored = JSON.parse(localStorage.getItem(data.key) ?? "{}");
      const number = Object.keys(stored).length;
      if (number) say(`${number} answers of your last visit are restored.`);
      return stored;
    } catch {
      return {};
    }
  }

  // What is shown ------------------------------------------------------------------------------

  let view = []; // items that pass the filters, in order
  let current = 0; // position in the view
  const pageOf = (position) => Math.floor(position / PAGE_SIZE);
  const say = (text) => {
    element("status").textContent = text;
  };

  function make(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function address(item) {
    let folder = element("folder").value.trim();
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

  function picture(item) {
    const source = data.pictures[item.index] ?? address(item);
    const none = () => make("span", { class: "none" }, "no picture");
    if (!source) return none();
    const image = make("img", { src: source, alt: item.file || `image ${item.id}` });
    magnify(image);
    image.addEventListener("error", () => image.replaceWith(none()));
    return image;
  }

  const percent = (probability) => `${(100 * probability).toFixed(1)} %`;

  function facts(item) {
    const name = item.file || `image ${item.id}`;
    const given = [`given: ${item.given}`, `suggested: ${item.suggested}`];
    return isReview ? [name, ...given, `clean: ${percent(item.probability)}`] : [name];
  }

  function card(item, position) {
    const lines = facts(item).map((text, i) =>
      make("span", { class: i ? "fact" : "name", title: text }, i ? text : text.split("/").pop()),
    );
    const made = make(
      "div",
      { class: "card", role: "option", id: `card${position}`, tabindex: "-1" },
      make("span", { class: "picture" }, picture(item)),
      ...lines,
      make("span", { class: "answer" }),
    );
    made.addEventListener("click", () => select(position));
    made.addEventListener("dblclick", enlarge);
    return made;
  }

  function update(position) {
    const made = element(`card${position}`);
    if (!made) return;
    const item = view[position];
    const answer = answerText(answers.get(item.index));
    made.classList.toggle("answered", Boolean(answer));
    made.querySelector(".answer").textContent = answer || "–";
    made.setAttribute("aria-selected", position === current);
    made.tabIndex = position === current ? 0 : -1;
    const place = `${position + 1} of ${view.length}`;
    made.setAttribute("aria-label", [place, ...facts(item), answer || "no answer"].join(", "));
  }

  function showPage() {
    const first = pageOf(current) * PAGE_SIZE;
    const shown = view.slice(first, first + PAGE_SIZE);
    element("grid").replaceChildren(...shown.map((item, i) => card(item, first + i)));
    shown.forEach((_, i) => update(first + i));
    element("place").textContent = shown.length
      ? `${first + 1} to ${first + shown.length} of ${view.length}`
      : "no image passes the filters";
    element("previous").disabled = first === 0;
    element("next").disabled = first + PAGE_SIZE >= view.length;
    element("paging").hidden = view.length > 0 && view.length <= PAGE_SIZE;
  }

  function showProgress() {
    element("progress").max = items.length;
    element("progress").value = answers.size;
    element("count").textContent = `${answers.size} of ${items.length} answered`;
    element("undo").disabled = !history.length;
    markChoices();
  }

  function select(position, focus = true) {
    if (!view.length) return;
    const before = current;
    current = Math.max(0, Math.min(position, view.length - 1));
    if (pageOf(before) === pageOf(current)) update(before);
    else showPage();
    update(current);
    const made = element(`card${current}`);
    if (focus) made.focus({ preventScroll: true });
    made.style.scrollMarginBottom = `${element("bar").offsetHeight + 8}px`;
    made.scrollIntoView({ block: "nearest" });
    markChoices();
  }

  function show(focus = false) {
    view = items.filter((item) => filters.every(({ test }) => test(item)));
    if (isReview) view.sort(ORDERS[element("order").value]);
    current = 0;
    showPage();
    showProgress();
    if (focus) select(0);
  }

  function enlarge() {
    const item = view[current];
    if (!item) return;
    const whole = make("img", { src: address(item) || data.pictures[item.index] || "", alt: "" });
    whole.addEventListener("error", () => {
      if (data.pictures[item.index]) whole.src = data.pictures[item.index];
    }, { once: true });
    magnify(whole);
    const close = make("button", { type: "button" }, "Close");
    close.addEventListener("click", () => element("whole").close());
    element("whole").replaceChildren(whole, make("p", {}, facts(item).join(", ")), close);
    element("whole").showModal();
  }

  // Filters and order --------------------------------------------------------------------------

  const text = new Intl.Collator(undefined, { numeric: true });
  const byFile = (a, b) => text.compare(a.file, b.file) || a.index - b.index;
  const ORDERS = {
    suspicion: (a, b) => a.index - b.index,
    file: byFile,
    class: (a, b) => text.compare(a.given, b.given) || a.index - b.index,
  };

  /** A list to choose from: options [text, test of an item], the first of which is all images. */
  function filter(id, title, options) {
    const list = make("select", { id });
    options().forEach(([name], i) => list.append(make("option", { value: i }, name)));
    element("filters").append(make("label", {}, title, list));
    const entry = { test: () => true };
    list.addEventListener("change", () => {
      entry.test = options()[list.value][1];
      show();
    });
    list.addEventListener("focus", () => {
      const chosen = list.value;
      list.replaceChildren(...options().map(([name], i) => make("option", { value: i }, name)));
      list.value = chosen;
    });
    return entry;
  }

  function counted(keyOf) {
    const counts = new Map();
    for (const item of items) counts.set(keyOf(item), (counts.get(keyOf(item)) ?? 0) + 1);
    return [...counts].sort((a, b) => b[1] - a[1] || text.compare(a[0], b[0]));
  }

  const all = ["all", () => true];
  const states = [
    all,
    ["unanswered", (item) => !answers.has(item.index)],
    ["answered", (item) => answers.has(item.index)],
  ];
  const answeredAs = (decision, label) => (item) => {
    const answer = answers.get(item.index);
    return answer?.[0] === decision && answer[1] === label;
  };
  const pair = (item) => `${item.given} → ${item.suggested}`;
  const filters = isReview
    ? [
        filter("state", "Show", () => states),
        filter("given", "Given label", () => [
          all,
          ...counted((item) => item.given).map(([name, number]) => [
            `${name} (${number})`,
            (item) => item.given === name,
          ]),
        ]),
        filter("pair", "Given → suggested", () => [
          all,
          ...counted(pair).map(([name, number]) => [
            `${name} (${number})`,
            (item) => pair(item) === name,
          ]),
        ]),
      ]
    : [
        filter("state", "Show", () => [
          ...states,
          ...classes.map((name) => [`class ${name}`, answeredAs("class", name)]),
          ["unknown", answeredAs("unknown", "")],
          ["skip", answeredAs("skip", "")],
        ]),
      ];
  if (isReview) {
    const list = make("select", { id: "order" });
    for (const name of Object.keys(ORDERS)) list.append(make("option", { value: name }, name));
    list.addEventListener("change", () => show());
    element("filters").append(make("label", {}, "Sort by", list));
  }

  // Answering ----------------------------------------------------------------------------------

  const COMMANDS = isReview
    ? {
        k: ["Keep", (item) => ["keep", item.given]],
        a: ["Accept suggestion", (item) => ["accept", item.suggested]],
        u: ["Unsure", () => ["unsure", ""]],
      }
    : { u: ["unknown", () => ["unknown", ""]], s: ["skip", () => ["skip", ""]] };
  const RESERVED = [...Object.keys(COMMANDS), "o", "z"];
  const KEYS = [..."1234567890abcdefghijklmnopqrstuvwxyz"].filter((k) => !RESERVED.includes(k));
  let choices = []; // {key, button, answer}

  function chosenClass(name) {
    return (item) => {
      if (!isReview) return ["class", name];
      if (name === item.given) return ["keep", name];
      return [name === item.suggested ? "accept" : "other", name];
    };
  }

  function setAnswer(answer) {
    const item = view[current];
    if (!item) return;
    history.push([item.index, answers.get(item.index)]);
    answers.set(item.index, answer);
    keep();
    say(`${facts(item)[0]}: ${answerText(answer)}`);
    const active = document.activeElement;
    select(current + 1, active === document.body || active.classList.contains("card"));
    showProgress();
  }

  function undo() {
    if (!history.length) return;
    const [index, before] = history.pop();
    if (before) answers.set(index, before);
    else answers.delete(index);
    keep();
    const position = view.findIndex((item) => item.index === index);
    if (position >= 0) select(position);
    showProgress();
    say(`${facts(items[index])[0]}: ${answerText(before) || "no answer"}`);
  }

  function choice(key, name, answer, kind) {
    const button = make("button", { type: "button", class: kind, title: name });
    if (key) button.append(make("kbd", {}, key), " ");
    button.append(make("span", {}, name));
    button.addEventListener("click", () => setAnswer(answer(view[current])));
    choices.push({ key, button, answer, name });
    return button;
  }

  function showChoices() {
    choices = [];
    const fixed = Object.entries(COMMANDS).map(([key, [name, answer]]) =>
      choice(key, name, answer, "fixed"),
    );
    const named = classes.map((name, i) => choice(KEYS[i], name, chosenClass(name), "class"));
    element("fixed").replaceChildren(...fixed);
    element("classes").replaceChildren(...named);
    findClass();
  }

  function markChoices() {
    const item = view[current];
    const given = item && answerText(answers.get(item.index));
    for (const { button, answer } of choices) {
      button.disabled = !item;
      button.setAttribute("aria-pressed", Boolean(item) && answerText(answer(item)) === given);
    }
  }

  const matches = (name, wanted) => name.toLowerCase().includes(wanted.toLowerCase());

  function findClass() {
    const wanted = element("find").value.trim();
    for (const { button, name } of choices) {
      if (button.className === "class") button.hidden = !matches(name, wanted);
    }
    const isNew = wanted && !classes.includes(wanted) && !["unknown", "skip"].includes(wanted);
    element("new").hidden = isReview || !isNew;
    element("new").textContent = `New class “${wanted}”`;
  }

  function takeClass(name) {
    element("find").value = "";
    addClass(name);
    showChoices();
    const before = current;
    if (view[before]) setAnswer(chosenClass(name)(view[before]));
    select(current);
  }

  element("find").addEventListener("input", findClass);
  element("find").addEventListener("keydown", (event) => {
    const wanted = element("find").value.trim();
    if (event.key === "Escape") {
      element("find").value = "";
      findClass();
      select(current);
    } else if (event.key === "Enter" && wanted) {
      const near = classes.filter((name) => matches(name, wanted));
      const same = near.filter((name) => name.toLowerCase() === wanted.toLowerCase());
      const found = [near.filter((name) => name === wanted), same, near];
      const [single] = found.find((names) => names.length === 1) ?? [];
      if (single !== undefined) takeClass(single);
      else say(near.length ? `${near.length} classes match “${wanted}”.` : "No class matches.");
    }
  });
  element("new").addEventListener("click", () => takeClass(element("find").value.trim()));

  // Keys ---------------------------------------------------------------------------------------

  /** Cards in a row of the grid. */
  function rowLength() {
    const [first, ...others] = element("grid").children;
    const next = others.findIndex((other) => other.offsetTop > first.offsetTop);
    return next < 0 ? others.length + 1 : next + 1;
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || element("whole").open) return;
    if (event.target.closest("input, select, textarea")) return;
    const onButton = event.target.closest("button, summary, label");
    const moves = {
      ArrowLeft: () => select(current - 1),
      ArrowRight: () => select(current + 1),
      ArrowUp: () => select(current - rowLength()),
      ArrowDown: () => select(current + rowLength()),
      Home: () => select(0),
      End: () => select(view.length - 1),
      PageUp: () => select((pageOf(current) - 1) * PAGE_SIZE),
      PageDown: () => select(Math.min((pageOf(current) + 1) * PAGE_SIZE, view.length - 1)),
      o: () => element("find").focus(),
      z: undo,
      ...(onButton ? {} : { Enter: enlarge }),
    };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const chosen = choices.find((one) => one.key === key);
    const act = moves[key] ?? (chosen && (() => chosen.button.click()));
    if (!act || (!view.length && act !== undo)) return;
    event.preventDefault();
    act();
  });

  // Saving and loading -------------------------------------------------------------------------

  element("save").addEventListener("click", () => {
    const content = toCsv([data.columns, ...savedRows()]);
    const link = make("a", { download: data.save_as });
    link.href = URL.createObjectURL(new Blob([content], { type: "text/csv;charset=utf-8" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    say(`${data.save_as} has ${answers.size} of ${items.length} answers. ${data.after_saving}`);
  });

  element("load").addEventListener("change", async () => {
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
    const byId = new Map(items.map((item) => [item.id, item]));
    const wrong = [];
    let taken = 0;
    for (const { line, cells } of rows) {
      const named = Object.fromEntries(names.map((name, i) => [name, (cells[i] ?? "").trim()]));
      const item = byId.get(named.id);
      const answer = item && answerOf(item, named);
      if (answer === undefined) wrong.push(line);
      else if (answer) {
        if (answer[0] === "class") addClass(answer[1]);
        answers.set(item.index, answer);
        taken++;
      }
    }
    history.length = 0;
    keep();
    showChoices();
    show();
    const lines = `${wrong.slice(0, 5).join(", ")}${wrong.length > 5 ? ", ..." : ""}`;
    const left = wrong.length ? ` Left out, because no image or class fits: line ${lines}.` : "";
    say(`${taken} answers read from ${file.name}.${left}`);
  });

  element("undo").addEventListener("click", undo);
  element("restart").addEventListener("click", () => {
    if (!confirm("Delete all answers given on this page?")) return;
    history.length = 0;
    start({});
    keep();
    showChoices();
    show();
    say("Started over.");
  });
  element("previous").addEventListener("click", () => select((pageOf(current) - 1) * PAGE_SIZE));
  element("next").addEventListener("click", () => select((pageOf(current) + 1) * PAGE_SIZE));
  element("folder").addEventListener("change", showPage);
  element("folders").hidden = !data.folder || data.pictures.length >= items.length;
  element("folder").value = data.folder;

  start(restored());
  showChoices();
  show(true);
})();
