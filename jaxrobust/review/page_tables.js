// Tables as CSV, written and read as jaxrobust.data.tables does.

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
