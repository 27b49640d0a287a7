"""Scrubbing: it never raises, changes nothing twice, and no planted secret comes through.

An input is a text before the secret and one after it; the first byte chooses the secret. A text that is JSON is
scrubbed as a document, too.
"""

import json
from typing import Any, Final

from realtime.scrub import ScrubError, scrub, scrub_text
from tests.fuzz.target import PART, Target, in_time
from tests.unit.test_scrub import CODE, DIFF, FORMS, PERSONAL_KEYS, TELEMETRY, TEXTS

_SECRETS: Final = [form for form, _ in FORMS]
_KEYS: Final = PERSONAL_KEYS.split()
_CANARY: Final = "cAnaRy7"


def check(data: bytes) -> None:
    """A secret that stands alone on its line, quoted, is found whatever is before and after it."""
    choice = data[0] if data else 0
    before, after = (part.decode("utf-8", "replace") for part in (*data[1:].split(PART, 1), b"")[:2])
    secret = _SECRETS[choice % len(_SECRETS)]
    _check_text(before)
    _check_text(after)
    if secret not in before and secret not in after:  # else one is where nothing is promised
        assert secret not in _check_text(f'{before}\n"{secret}"\n{after}'), "a planted secret comes through"
    document = _json(before)
    _check_document(document)
    planted = {"a": document, _KEYS[choice % len(_KEYS)]: [_CANARY, document], "b": [after]}
    if _CANARY not in before and _CANARY not in after:
        assert _CANARY not in json.dumps(_check_document(planted)), "the value of a personal key comes through"


def _check_text(text: str) -> str:
    with in_time():
        once = scrub_text(text)
        again = scrub_text(once)
    assert again == once, "scrubbing again changes it"
    return once


def _check_document(document: Any) -> Any:
    try:
        with in_time():
            once = scrub(document)
            again = scrub(once)
    except ScrubError:
        return None
    assert again == once or again != again, "scrubbing again changes it"
    return once


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _seed(number: int, before: str, after: str) -> bytes:
    return bytes([number % 256]) + before.encode() + PART + after.encode()


def seeds() -> list[bytes]:
    """Texts with and without secrets, code, and JSON."""
    texts = [text for text, _ in TEXTS] + CODE.split("\n") + TELEMETRY.split("\n") + [DIFF]
    pairs = [_seed(number, text, texts[number - 1]) for number, text in enumerate(texts)]
    keyed = [
        _seed(number, json.dumps({key: "x", "n": [number]}), form) for number, key in enumerate(_KEYS) for form in ""
    ]
    forms = [_seed(number, json.dumps({"note": form}), form) for number, form in enumerate(_SECRETS)]
    return [*pairs, *keyed, *forms]


def words() -> list[bytes]:
    """What the patterns look for."""
    pieces = ["password=", "token: ", '"apiKey":"', "--token ", "://u:p@", "@@ -1 +1 @@\n+", "phone ", "Bearer ", "\\n"]
    pieces += ["-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", '\\"', "${x}", "[token]", "fileID: ", "eyJ"]
    return [PART, *(piece.encode() for piece in [*pieces, *_SECRETS, *_KEYS])]


TARGET: Final = Target("scrub", check, seeds, words)
