"""A local server for one page of answers, which writes the table after every answer.

It listens on the loopback interface only. Its address contains a token that no other page can know,
only images of the page are served, and nothing is shared with other origins.
"""

import contextlib
import html
import http.server
import json
import mimetypes
import pathlib
import secrets
import threading
import urllib.parse
from collections.abc import Mapping
from typing import Any

from jaxrobust.data.corrections import COLUMNS, DECISIONS
from jaxrobust.data.tables import (
    Row,
    escape_formula,
    read_rows,
    unescape_formula,
    write_rows,
)
from jaxrobust.errors import UserError

HOST = "127.0.0.1"

_MAX_BODY = 16 * 2**20  # bytes
_MAX_TEXT = 2000  # characters of a note or the name of a class
_POLICY = "default-src 'none'; "

Entry = list[Any]
"""`[decision, label, time in ms, note, drawn]`, as in `page_answers.js`."""


class Desk:
    """A page of questions, its table on the disk, and the answers that both hold."""

    def __init__(self, page: pathlib.Path):
        self._text = _read(page)
        self.data = _embedded(page, self._text)
        self.table = page.parent / self.data["save_as"]
        self.is_review = self.data["kind"] == "review"
        self._root = page.parent / self.data["folder"]
        columns = {name: i for i, name in enumerate(self.data["columns"])}
        rows = self.data["rows"]
        self._ids = [row[0] for row in rows]
        self._index = {image: i for i, image in enumerate(self._ids)}
        self._files = [
            row[1] if self.is_review else unescape_formula(row[columns["file"]]) for row in rows
        ]
        self._images = set(filter(None, self._files))
        self._lock = threading.Lock()
        self._read_at: int | None = None
        self.entries: dict[int, Entry] = {}
        self._others: list[list[str]] = []  # rows of the table that this page does not ask about
        self._refresh()

    @property
    def num_answered(self) -> int:
        return sum(bool(entry[0]) for entry in self.entries.values())

    def page(self) -> str:
        """The page, which knows that it is served."""
        name = html.escape(str(self.table), quote=True)
        served = self._text.replace(_POLICY, f"{_POLICY}connect-src 'self'; ", 1)
        meta = f'<meta name="jaxrobust-server" content="{name}">'
        return served.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{meta}', 1)

    def image(self, file: str) -> pathlib.Path | None:
        """An image of the page, or None."""
        path = self._root / file
        return path if file in self._images and path.is_file() else None

    def answers(self) -> dict[int, Entry]:
        with self._lock:
            self._refresh()
            return dict(self.entries)

    def take(self, changes: Mapping[str, Entry]) -> None:
        """Takes new entries, and writes the table; ValueError for entries of another page."""
        found = {int(index): self._checked(index, entry) for index, entry in changes.items()}
        with self._lock:
            self._refresh()
            for index, entry in found.items():
                if index not in self.entries or entry[2] >= self.entries[index][2]:
                    self.entries[index] = entry
            write_rows(self.table, self._rows())
            self._read_at = self.table.stat().st_mtime_ns

    def close(self) -> None:
        """Waits for answers that are being written; no others are taken."""
        self._lock.acquire()

    def _checked(self, index: str, entry: Any) -> Entry:
        if not (index.isdecimal() and int(index) < len(self._ids)):
            raise ValueError(f"there is no image {index[:20]!r}")
        if not (isinstance(entry, list) and len(entry) == 5):
            raise ValueError("an entry has five parts")
        decision, label, time, note, drawn = entry
        texts = (decision, label, note)
        if not all(isinstance(text, str) and len(text) <= _MAX_TEXT for text in texts):
            raise ValueError(f"a text is longer than {_MAX_TEXT} characters")
        if not isinstance(time, (int, float)) or drawn not in (0, 1):
            raise ValueError("the time or the mark of the random check is not a number")
        known = DECISIONS if self.is_review else ("class", "unknown", "skip")
        if decision not in ("", *known):
            raise ValueError(f"{decision!r} is not a decision")
        is_named = decision in ("keep", "accept", "other", "class")
        if is_named != bool(label) and decision:
            raise ValueError(f"the decision {decision!r} does not go with the class {label!r}")
        if self.is_review and label and label not in self.data["classes"]:
            raise ValueError(f"{label!r} is not a class")
        return entry

    def _refresh(self) -> None:
        """Reads the table again, if it was changed by others."""
        now = self.table.stat().st_mtime_ns if self.table.exists() else None
        if now == self._read_at:
            return
        self._read_at = now
        if now is None:
            return
        self._others = []
        for n, row in enumerate(read_rows(self.table, required=("id", "label"))):
            index = self._index.get(row.cells["id"])
            entry = None if index is None else self._entry(index, row, now / 1e6 + n / 1000)
            if entry is None:
                if self.is_review:
                    self._others.append([row.cells.get(name, "") for name in COLUMNS])
            elif index is not None:
                before = self.entries.get(index)
                if before is None or before[:2] != entry[:2] or before[3:] != entry[3:]:
                    self.entries[index] = entry

    def _entry(self, index: int, row: Row, time: float) -> Entry | None:
        """The answer in a row; None if it is not about this image of the page."""
        cells = row.cells
        label, file = unescape_formula(cells["label"]), unescape_formula(cells.get("file", ""))
        if file and self._files[index] and file != self._files[index]:
            return None
        if not self.is_review:
            if not label:
                return None
            decision = label if label in ("unknown", "skip") else "class"
            return [decision, label if decision == "class" else "", time, "", 0]
        _, _, given, suggested, *_ = self.data["rows"][index]
        decision = cells.get("decision", "")
        if not decision and label:
            decision = {given: "keep", suggested: "accept"}.get(label, "other")
        if label and label not in self.data["classes"]:
            return None
        note = unescape_formula(cells.get("note", ""))
        return [decision, label, time, note, int(cells.get("drawn") == "1")]

    def _rows(self) -> list[list]:
        if not self.is_review:
            lines = [dict(row.cells) for row in read_rows(self.table, required=("id", "label"))]
            for cells in lines:
                index = self._index.get(cells["id"])
                if index in self.entries:
                    decision, label, *_ = self.entries[index]
                    cells["label"] = escape_formula(label) if decision == "class" else decision
            return [list(lines[0]), *(list(cells.values()) for cells in lines)]
        rows = [list(COLUMNS), *self._others]
        for index, entry in sorted(self.entries.items(), key=lambda item: (item[1][2], item[0])):
            decision, label, _, note, drawn = entry
            if not decision and not note:
                continue
            image, file, given, *_ = self.data["rows"][index]
            texts = map(escape_formula, (file, given, label))
            rows.append([image, *texts, decision, drawn, escape_formula(note)])
        return rows


def _read(page: pathlib.Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{page} cannot be read ({error}); name a run or its page.") from None


def _embedded(page: pathlib.Path, text: str) -> dict[str, Any]:
    _, _, rest = text.partition('<script type="application/json" id="data">')
    with contextlib.suppress(ValueError):
        data = json.loads(rest.partition("</script>")[0])
        if {"kind", "rows", "columns", "folder", "save_as", "place"} <= data.keys():
            return data
    raise UserError(
        f"{page} is not a page for answers, or is from an older version; rerun the command that "
        "wrote it."
    )


def make_server(desk: Desk, port: int = 0) -> tuple[http.server.ThreadingHTTPServer, str]:
    """A server that is ready to run, and its address; port 0 is any that is free."""
    token = secrets.token_urlsafe(24)

    class Handler(_Handler):
        pass

    try:
        server = http.server.ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise UserError(
            f"Port {port} cannot be used ({error.strerror}); choose another --port."
        ) from None
    Handler.desk, Handler.token = desk, token
    number = server.server_address[1]
    Handler.hosts = (f"{HOST}:{number}", f"localhost:{number}")
    return server, f"http://{HOST}:{number}/{token}/"


class _Handler(http.server.BaseHTTPRequestHandler):
    desk: Desk
    token: str
    hosts: tuple[str, ...]

    def do_GET(self) -> None:
        place = self._place()
        if place == "":
            self._reply(200, "text/html; charset=utf-8", self.desk.page().encode())
        elif place == "answers":
            self._reply_json(self.desk.answers())
        elif place is not None and place.startswith("images/"):
            path = self.desk.image(urllib.parse.unquote(place.removeprefix("images/")))
            kind = None if path is None else mimetypes.guess_type(path.name)[0]
            if path is None or kind is None or not kind.startswith("image/"):
                self._reply(404, "text/plain", b"There is no such image on this page.")
            else:
                self._reply(200, kind, path.read_bytes(), policy="default-src 'none'; sandbox")
        elif place is not None:
            self._reply(404, "text/plain", b"There is no such page.")

    def do_POST(self) -> None:
        place = self._place()
        if place is None:
            return
        origin = self.headers.get("Origin", "")
        is_own = origin in {"", *(f"http://{host}" for host in self.hosts)}
        if place != "answers" or not is_own:
            self._reply(403, "text/plain", b"Only the page itself may answer.")
            return
        length = self.headers.get("Content-Length", "")
        if self.headers.get_content_type() != "application/json" or not length.isdecimal():
            self._reply(415, "text/plain", b"Answers are JSON.")
            return
        if int(length) > _MAX_BODY:
            self._reply(413, "text/plain", b"These are too many answers at once.")
            return
        try:
            changes = json.loads(self.rfile.read(int(length)))
            if not isinstance(changes, dict):
                raise ValueError("they are not an object")
            self.desk.take(changes)
        except (ValueError, UserError) as error:
            self._reply(400, "text/plain; charset=utf-8", str(error).encode())
        except OSError as error:
            text = f"{self.desk.table} cannot be written ({error.strerror})"
            self._reply(500, "text/plain; charset=utf-8", text.encode())
        else:
            self._reply_json({"answered": self.desk.num_answered})

    def _place(self) -> str | None:
        """What is asked for below the token; None, and a refusal, if the request may not ask."""
        _, token, *rest = (self.path.partition("?")[0] + "/").split("/", 2)
        is_ours = self.headers.get("Host", "") in self.hosts
        if not is_ours or not secrets.compare_digest(token.encode(), self.token.encode()):
            self._reply(403, "text/plain", b"Open the address that jaxrobust review has printed.")
            return None
        return rest[0].removesuffix("/") if rest else ""

    def _reply_json(self, value: Any) -> None:
        self._reply(200, "application/json", json.dumps(value).encode())

    def _reply(self, status: int, kind: str, content: bytes, policy: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", policy or "frame-ancestors 'none'")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests are not the person's concern."""
