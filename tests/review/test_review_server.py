"""`jaxrobust review`: a page that writes its table itself, and whom the server answers."""

import contextlib
import csv
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

import numpy as np
import pages
import pytest
from PIL import Image

from jaxrobust.commands import cli
from jaxrobust.data.corrections import read_corrections
from jaxrobust.errors import UserError
from jaxrobust.review import annotation_page, review_page
from jaxrobust.review.server import Desk, make_server

CLASSES = ["cat", "dog", "=x", "</script>"]
FILES = ["a b.png", "c#1.png", "d.png", '"><img src=x onerror=x()>.png']


@pytest.fixture
def run(tmp_path):
    """A run whose four labels look wrong, with its page."""
    for file in FILES:
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.new("RGB", (200, 100), (90, 30, 60)).save(tmp_path / "data" / file)
    (tmp_path / "data" / "secret.png").write_bytes(b"secret")
    rows = [review_page.Suspect(10 + n, file, "cat", "dog", 0.1) for n, file in enumerate(FILES)]
    review_page.write(tmp_path / "run" / "label_review.html", rows, CLASSES, root=tmp_path / "data")
    return tmp_path / "run"


@pytest.fixture
def served(run):
    """A desk, and a function that asks its server."""
    desk = Desk(run / "label_review.html")
    server, address = make_server(desk)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    parts = urllib.parse.urlsplit(address)

    def ask(place="", body=None, *, path=None, **headers):
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            names = {"Content-Type": "application/json", **names}
        method = "GET" if body is None else "POST"
        connection.request(method, path or parts.path + place, body, names)
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, content, reply.headers

    yield desk, ask
    server.shutdown()
    thread.join()
    server.server_close()


def _rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))


def _entry(decision="keep", label="cat", time=1e12, note="", drawn=0):
    return [decision, label, time, note, drawn]


def test_every_answer_is_in_the_table_at_once(served, run):
    _, ask = served
    table = run / "corrections.csv"
    assert ask("answers", json.dumps({"1": _entry("accept", "dog", 2e12, "=a", 1)}))[0] == 200
    assert ask("answers", json.dumps({"0": _entry(), "3": _entry("unsure", "", 3e12)}))[0] == 200
    assert [row["id"] for row in _rows(table)] == ["10", "11", "13"]  # in order of time
    assert _rows(table)[1] | {"note": "", "file": ""} == {
        "id": "11", "file": "", "given_label": "cat", "label": "dog", "decision": "accept",
        "drawn": "1", "note": "",
    }  # fmt: skip
    assert _rows(table)[1]["note"] == "'=a"
    files = ["x"] * 10 + FILES
    reviewed = read_corrections(table, files=files, labels=np.zeros(14, int), class_names=CLASSES)
    assert reviewed.labels[10:].tolist() == [0, 1, 0, 0]
    # An older answer does not replace a newer one; an answer that is taken back leaves the table.
    ask("answers", json.dumps({"1": _entry("keep", "cat", 1e12), "0": _entry("", "", 5e12)}))
    assert [row["decision"] for row in _rows(table)] == ["accept", "unsure"]
    assert not list(run.glob("*.part"))


def test_rows_of_others_and_changes_by_hand_stay(run):
    table = run / "corrections.csv"
    table.write_text(
        "id,file,given_label,label,decision\n7,other.png,cat,dog,accept\n10,a b.png,cat,dog,\n"
    )
    desk = Desk(run / "label_review.html")
    assert desk.entries[0][:2] == ["accept", "dog"]
    desk.take({"2": _entry(time=2e15)})
    assert [row["file"] for row in _rows(table)] == ["other.png", "a b.png", "d.png"]
    text = table.read_text().replace("10,a b.png,cat,dog,accept", "10,a b.png,cat,cat,keep")
    table.write_text(text)
    os.utime(table, ns=(1, 1))
    assert desk.answers()[0][:2] == ["keep", "cat"]


WRONG = {
    "no JSON": "{",
    "a list": "[]",
    "another image": {"4": _entry()},
    "no number": {"a": _entry()},
    "no entry": {"0": ["keep", "cat"]},
    "not a decision": {"0": _entry("delete")},
    "no class": {"0": _entry("keep", "lion")},
    "a class too many": {"0": _entry("unsure", "cat")},
    "a class too few": {"0": _entry("keep", "")},
    "no text": {"0": _entry(note=1)},
    "a long text": {"0": _entry(note="x" * 2001)},
    "no time": {"0": _entry(time="now")},
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
def test_what_is_not_an_answer_is_refused(served, run, body):
    _, ask = served
    status, text, _ = ask("answers", body if isinstance(body, str) else json.dumps(body))
    assert status == 400 and text
    assert not (run / "corrections.csv").exists()


def test_only_the_page_itself_is_served(served, run):
    desk, ask = served
    status, page, headers = ask()
    assert status == 200 and b"jaxrobust-server" in page and b"connect-src 'self'" in page
    assert "Access-Control-Allow-Origin" not in headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    for file in FILES:
        status, content, headers = ask("images/" + urllib.parse.quote(file))
        assert status == 200 and headers["Content-Type"] == "image/png"
        assert content == (run.parent / "data" / file).read_bytes()
    for place in ("images/secret.png", "images/..%2Frun%2Flabel_review.html", "images/", "else"):
        assert ask(place)[0] == 404
    body = json.dumps({"0": _entry()})
    assert ask(path="/")[0] == 403
    assert ask(path="/wrong/")[0] == 403
    assert ask(Host="evil.example")[0] == 403
    assert ask("answers", body, Origin="http://evil.example")[0] == 403
    assert ask("answers", body, Content_Type="text/plain")[0] == 415
    assert ask("answers", body, Content_Length=str(2**30))[0] == 413
    assert ask("", body)[0] == 403
    assert not desk.entries
    assert ask("answers", body, Origin="null")[0] == 403


def test_a_table_that_cannot_be_written_is_said(served, run):
    _, ask = served
    (run / "corrections.csv.part").mkdir()
    status, text, _ = ask("answers", json.dumps({"0": _entry()}))
    assert status == 500 and b"corrections.csv cannot be written" in text


def test_the_table_of_a_query_keeps_its_other_cells(tmp_path):
    queries = tmp_path / "run" / "queries"
    rows = [["id", "file", "label", "score"], [3, "a.png", "", "0.5"], [5, "'=b.png", "", "0.25"]]
    annotation_page.write(queries / "round_00.html", rows, CLASSES)
    table = queries / "round_00.csv"
    text = "\ufeff" + "".join(",".join(map(str, row)) + "\n" for row in rows)
    table.write_text(text, encoding="utf-8")
    desk = Desk(queries / "round_00.html")
    desk.take({"1": _entry("class", "=x"), "0": _entry("unknown", "")})
    written = text.replace("a.png,", "a.png,unknown").replace("'=b.png,", "'=b.png,'=x")
    assert table.read_text(encoding="utf-8") == written
    assert Desk(queries / "round_00.html").entries[1][:2] == ["class", "=x"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "There is no folder or page"),
        (".", "holds no label_review.html"),
        ("index.html", "is not a page for answers"),
    ],
)
def test_what_cannot_be_reviewed_is_said(tmp_path, name, said):
    (tmp_path / "index.html").write_text("<html></html>")
    with pytest.raises(UserError, match=said):
        cli.COMMANDS["review"]([str(tmp_path / name), "--no-browser"])


@contextlib.contextmanager
def _command(run):
    """The command's address, and a list to which it adds what the command says after Ctrl-C."""
    command = [sys.executable, "-m", "jaxrobust", "review", str(run), "--no-browser"]
    process, said = subprocess.Popen(command, stdout=subprocess.PIPE, text=True), []
    try:
        yield process.stdout.readline().strip(), said
        process.send_signal(signal.SIGINT)
        said.append(process.communicate(timeout=30)[0])
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0


def test_a_person_reviews_and_ends_by_ctrl_c(browser, run):
    table = run / "corrections.csv"
    with _command(run) as (address, said):
        with pages.opened(browser, address) as page:
            pages.wait_until(page, "document.querySelector('#status').textContent !== ''")
            assert page.text_content("#status") == f"Every answer is written to {table}."
            for n, key in enumerate("ku", start=1):
                page.keyboard.press(key)
                _wait(lambda n=n: table.exists() and len(_rows(table)) == n)
            page.keyboard.press("Enter")
            pages.wait_until(page, "document.querySelector('#frame img').naturalWidth === 200")
            page.keyboard.press("Escape")
            page.keyboard.press("z")
            _wait(lambda: len(_rows(table)) == 1)
            pages.wait_until(page, "document.querySelector('#save').textContent === 'Saved ✓'")
            for width, height in pages.SIZES:
                page.set_viewport_size({"width": width, "height": height})
                pages.assert_accessible(page)
                pages.assert_legible(page)
            pages.reload(page)
            pages.wait_until(page, "document.querySelector('#count').textContent[0] === '1'")
    assert said[0].endswith(f"1 of 4 images are answered: {table}\n")
    assert [row["decision"] for row in _rows(table)] == ["keep"]


def test_ctrl_c_ends_it_while_a_browser_holds_a_connection(run):
    """Chromium opens connections ahead of requests that it may never make."""
    with contextlib.ExitStack() as held:
        with _command(run) as (address, said):
            parts = urllib.parse.urlsplit(address)
            held.enter_context(socket.create_connection((parts.hostname, parts.port)))
            with urllib.request.urlopen(address) as page:  # accepted after the connection
                assert page.status == 200
    assert said[0].endswith(f"0 of 4 images are answered: {run / 'corrections.csv'}\n")


def test_answers_wait_in_the_browser_while_the_server_is_gone(browser, run):
    desk = Desk(run / "label_review.html")
    server, address = make_server(desk)
    port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    page.keyboard.press("k")
    _wait(lambda: (run / "corrections.csv").exists())
    server.shutdown()
    thread.join()
    server.server_close()
    page.keyboard.press("a")
    pages.wait_until(page, "document.querySelector('#status').textContent.includes('does not')")
    assert page.text_content("#save") == "Saving …"
    assert len(_rows(run / "corrections.csv")) == 1
    # Its own server again: the page sends what it has kept.
    again, _ = make_server(desk, port)
    again.RequestHandlerClass.token = urllib.parse.urlsplit(address).path.strip("/")
    thread = threading.Thread(target=again.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        _wait(lambda: len(_rows(run / "corrections.csv")) == 2)
    finally:
        context.close()
        again.shutdown()
        thread.join()
        again.server_close()


def _wait(condition, seconds=15.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
