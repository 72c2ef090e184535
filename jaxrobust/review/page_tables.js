// Tables as CSV, written and read as jaxrobust.data.tables does.

const escapeFormula = (text) => (/^[=+\-@\t\r']/.test(text) ? `'${text}` : text);
const unescapeFormula = (text) => (text.startsWith("'") ? text.slice(1) : text);
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
