"""Names of files and classes as text that every file format can hold, and back.

On Linux a name is any sequence of bytes without `/` and NUL: it may not be UTF-8, in which case
Python reads lone surrogates, and may hold line breaks, which no spreadsheet or XML keeps.
"""

import os
import re
import urllib.parse

_ODD = r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]"
_CODE = r"(?:\\|[nrt]|x[0-9a-f]{2}|u[0-9a-f]{4})"
# A backslash stays as it is where nothing else could be read of it.
_TO_ESCAPE = re.compile(rf"\\(?={_CODE}|{_ODD})|{_ODD}")
_ESCAPED = re.compile(rf"\\({_CODE})")
_LETTERS = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MEANT = {code[1]: letter for letter, code in _LETTERS.items()}


def escaped(name: str) -> str:
    """The name in one line of UTF-8; one that is such a line stays as it is."""
    return _TO_ESCAPE.sub(lambda found: _code_of(found[0]), name)


def restored(text: str) -> str:
    """The name that `escaped` was given."""
    return _ESCAPED.sub(lambda found: _letter_of(found[1]), text)


def quoted(path: str) -> str:
    """A path as a part of a URL, percent-encoded byte by byte."""
    return urllib.parse.quote(os.fsencode(path))


def unquoted(url: str) -> str:
    """The path that `quoted` was given."""
    return urllib.parse.unquote(url, errors="surrogateescape")


def _code_of(letter: str) -> str:
    number = ord(letter)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{number - 0xDC00:02x}"
    return _LETTERS.get(letter) or f"\\u{number:04x}"


def _letter_of(code: str) -> str:
    if len(code) == 1:
        return _MEANT[code]
    number = int(code[1:], 16)
    return chr(number + 0xDC00 if code[0] == "x" else number)
