"""What must not leave: secrets and personal values, taken out of an event before it is published.

By key, whatever the value: a key is personal when its last words are a name of `_NAMES`, in any spelling (`userEmail`,
`user_email`, `X-Api-Key`, `apikey`, `client_secret`), or such a name with a word that keeps it the same thing
(`phoneNumber`, `passwordHash`: a hash can be guessed from). So `tokensPrompt`, `tokenCount`, `max_output_tokens` and
`secretDoor` are not. Its value becomes `[redacted]`, but for null, true, false and "", which tell nothing; a number
stays where the key counts or measures (`emails: 3`, `timeToFirstToken: 212`).

By form, in every string and dict key: `[email]`, `[phone]`, `[ssn]`, `[card]`, `[token]`, `[private key]`, and
assignments to a personal key: `password=..`, `"apiKey": ..`, `--token ..`, JSON in a string too. A form counts only
where it cannot be code: a card has an issuer's prefix and length and passes Luhn, an email ends in a domain and not as
a file of Unity's does (`Model@Walk.fbx`). An assignment counts with a quoted literal, or without blanks around `=`: in
`token = Read()` stands an expression. What nothing marks (a name, ten digits in a row) is not found. Every pattern is
linear in its text: runs are possessive and start only where a run can, the rest is bounded.
"""

import base64
import re
import string
from decimal import Decimal
from functools import lru_cache, partial
from operator import is_
from typing import Any, Final

from connectors.errors import SlateError
from flows.events import MAX_DEPTH

REDACTED: Final = "[redacted]"
"""Stands for the whole value of a personal key."""

_NAMES: Final = re.compile(
    r"(?:[a-z]*(?:password|passwd|secret|apikey)|pwd|passphrase|(?:access|api|auth|csrf|id|refresh|session|user)?token)"
    r"(?:confirm|confirmation|hashe?|salt|value)?|(?:tele)?phone(?:number|no|num|nr)?|(?:user)?email(?:addresse?)?"
    r"|(?:ssn|socialsecurity|creditcard)(?:number)?|authorization(?:header)?|credential|(?:private|secret|access)key"
)
_TOKENS: Final = re.compile("access|api|auth|bearer|refresh|session")
_MEASURES: Final = re.compile("per|first|last|next|prompt|completion|input|output|cached|total|reasoning|stop|eos|pad")
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_PUT: Final = re.compile(r"(?:(?<!\w)|(?<=\\[nrt]))\[(?:email|phone|ssn|card|token)\]|\[private key\]", re.ASCII)
_LONGEST_KEY: Final = 64
_NUMBERS: Final = (int, float, Decimal)

# Hints are looked for before any pattern is tried, so that a plain text costs next to nothing.
_HINTS: Final = ("pass", "pwd", "token", "secret", "mail", "phone", "ssn", "social", "card", "auth", "creden", "key")
_TOKEN_HINT: Final = re.compile(
    "sk-|k_live_|k_test_|gh[pousr]_|github_pat_|glpat-|xox|xapp-|AKIA|ASIA|AIza|whsec_|eyJ|npm_|hf_|ek_|hooks.slack.com"
)

_PEM: Final = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY-----"
    r"(?:(?:(?!-----).)*+-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|[\w+/=\s\\:,.-]*+)",
    re.DOTALL,
)
_KEY_MATERIAL: Final = re.compile(r"[A-Za-z0-9+/]{40}")
_URL_USER: Final = re.compile(
    r"(?<=:)(\\?/\\?/)([^\s/?#:@\"'<>\\]{0,128}+:(?!\d{1,5}[/?#])(?:(?:(?!,\w{1,16}:/)[^\s\"'<>\\@]){0,128}+@)+"
    r"|(?:[^\s/?#\"'<>\\@]{1,256}+@)+)"
)
_EDGE: Final = r"(?:(?<![\w-])|(?<=\\[nrt]))"
_TOKEN: Final = re.compile(
    _EDGE
    + r"""(?:
      sk-(?=[\w-]{0,200}\d)[\w-]{20,}+ | [srp]k_(?:live|test)_\w{10,}+ | whsec_[\w+/=-]{16,}+ | ek_\w{20,}+
    | gh[pousr]_\w{20,}+ | github_pat_\w{20,}+ | glpat-[\w-]{20,}+ | xox[a-z]-[\w-]{10,}+ | xapp-[\w-]{20,}+
    | (?:AKIA|ASIA)[A-Z0-9]{16}\b | AIza[\w-]{30,}+ | npm_[A-Za-z0-9]{36}\b | hf_[A-Za-z0-9]{30,}+
    | eyJ[\w-]{10,}+(?:\.[\w-]++|\.(?=\.)){1,4} | hooks\.slack\.com/(?:services|workflows|triggers)/[\w/]{10,}+
    )""",
    re.VERBOSE | re.ASCII,
)
_SEED_OF_NKEY: Final = re.compile(r"S(?:(?<!\wS)|(?<=\\[nrt]S))[ACNOUX][A-Z2-7]{56}\b")
_SCHEME: Final = re.compile(_EDGE + r"(bearer|basic)([ \t]{1,8})([A-Za-z0-9._~+/=-]{8,}+)", re.IGNORECASE)
_MAIL: Final = re.compile(
    r"(?<![\w.%+-])([.%+-]*+)(?!(?:git|this|super)@)(\w[\w.%+-]*+)(?<!\.)@(?!v?\d+\.\d|\dx\.)"
    r"((?:[^\W_](?:[\w-]{0,62})\.){1,8}[^\W\d_]{2,24})(?![\w-]|@)"
)
_FILES: Final = re.compile(
    "fbx|anim|controller|prefab|mat|asset|unity|meta|png|jpg|jpeg|gif|psd|tga|tif|tiff|exr|hdr|svg|webp|bmp|wav|mp3|ogg|"
    "aif|aiff|cs|js|ts|shader|shadergraph|hlsl|cginc|compute|json|xml|yaml|yml|txt|csv|dll|obj|blend|dae|max|tgz"
)
_BEFORE: Final = r"(?:(?<![\w.@])(?<![A-Za-z_./]/){dash}|(?<=\\[nrt]))"
_START: Final = _BEFORE.format(dash=r"(?<!\w-)")
_END: Final = r"(?!-?\w|\.\d)"
_CARD: Final = re.compile(
    _BEFORE.format(dash=r"(?<!\d-)(?<!&)(?<!ID:)(?<!ID: )")
    + r"(?:\d{4}[ -]\d{4}[ -]\d{4}[ -]\d{1,7}(?:[ -]\d{1,3})?|\d{4}[ -]\d{6}[ -]\d{4,5}|\d{6}[ -]\d{13}|\d{13,19})"
    + _END,
    re.ASCII,
)
_ISSUED: Final = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-59]|[689]\d)\d{11}|(?:6011|64[4-9]\d|65\d\d)\d{12,15}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
    r"|(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{9,15}"
)
_SSN: Final = re.compile(_START + r"(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}" + _END, re.ASCII)
_PHONE: Final = re.compile(
    rf"""{_START}(?:
      (?P<international>\+[1-9](?:[ .()/-]{{0,3}}\d){{7,14}})
    | (?:1[ .-]?)?\([2-9]\d\d\)[ ]?[2-9]\d\d[ .-]\d{{4}}
    | (?:1[ .-])?[2-9]\d\d(?P<sep>[.-])[2-9]\d\d(?P=sep)\d{{4}} | [2-9]\d\d[ ][2-9]\d\d-\d{{4}}
    | 0[1-9]\d[ /-]\d{{4}}[ -]\d{{4}} | 0[1-9]\d\d[ /-]\d{{3}}[ -]?\d{{4}} | 0[1-9]\d{{3}}[ /-]\d{{3}}[ -]?\d{{3}}
    | 0[1-9]\d{{1,3}}[ /-]\d{{6,8}} | 0[36]-\d{{4}}-\d{{4}}
    | \(0\d{{1,4}}\)[ ]?\d{{3,8}}(?:[ -]\d{{2,5}})? | \(\d\d\)[ ]?9?\d{{4}}-\d{{4}}
    | (?<!\d[ .:-])0[1-9](?P<pair>[ .-])\d\d(?:(?P=pair)\d\d){{3}}(?![ .:-][0-9A-Fa-f]{{2}}\b)
    ){_END}""",
    re.VERBOSE | re.ASCII,
)
_PHONE_NEXT: Final = re.compile(_EDGE + r"(?:(?:tele)?phone|tel|fax|whatsapp|sms)(?: no| number)?\.?:? ?\Z", re.I)
_LOCAL_PHONE: Final = re.compile(r"\A(?:\+?\(?\d(?:[ .()-]{0,2}\d){9,14}|\d{3}[ .-]\d{4})" + _END, re.ASCII)
_DIGITS: Final = re.compile(r"[+(0-9][0-9 ()./+-]{6,}+")
"""Every number to look for is within such a run; `_CONTEXT` characters around it decide."""
_SEVEN_DIGITS: Final = re.compile(r"(?:[^0-9]*+[0-9]){7}")
_CONTEXT: Final = 4

_CORE: Final = re.compile(
    "pass|pwd|token|secret|mail|phone|ssn|social|card|authoriz|credential|(?:api|access|private|credit)[ _-]?[kc]"
)
_KEY_CHARACTERS: Final = string.ascii_letters + string.digits + "_-"
_ASSIGNMENT: Final = re.compile(
    r"(?P<flag>--)?+(?P<key>[\w-]++(?: (?i:key|address|(?:security |card )?number|card)\b)?+)"
    r"(?P<given>(?:(?P<level>\\{0,31})(?P<close>[\"'`]))?+\]?+(?P<blank>[ \t]*+)"
    r"(?:(?P<sep>=>|:=|=(?![=>])|:(?!:|=|//))|(?(flag)(?<=[ \t])|(?!)))[ \t]*+)?+"
)
_STRING: Final = (
    r"(?P<level>\\{{0,31}})(?P<quote>{quotes})"
    r"(?P<value>(?:(?!(?P=quote))[^\\{newline}]|(?P=level)\\(?P=level)(?:\\|(?P=quote))|(?!(?P=level)(?P=quote))\\)*+)"
)
_QUOTED: Final = re.compile(r"[$@frbu]{0,2}" + _STRING.format(quotes="[\"'`]", newline=r"\n"))
_NESTING: Final = re.compile(_STRING.format(quotes='"', newline="") + r"(?:(?P=level)\")?|[\[{]|(?P<shut>[\]}])")
_CLOSING: Final = tuple(" \t\n\r)+;,.]}:&?")
_BARE: Final = re.compile(
    r"(?:(?i:bearer|basic|token|digest|apikey)[ ]++)?"
    r"(?![\[({<>%=*|&)\]}-]|[+/](?![\w+/=]{8}))(?:[^\s\"'`<>,;&\\]|,(?!\s|\w{1,64}=|$)|\\(?![nrt\"'`\\]))++"
)
_PLACEHOLDER: Final = re.compile(
    r"(?:(?i:bearer|basic|token) )?(?:\$?\{[^}]*\}+|\$\(?[A-Za-z_]+\)?|%\(\w+\)s|%[dsr]|<[^>]*>|\*+|\[[a-z ]+\]|x{3,})"
)
_PATH: Final = re.compile(r"(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)")
_CALL: Final = re.compile(r"[A-Za-z_][\w.]*+[(\[]")
_NUMBER: Final = re.compile(r"-?\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NO_VALUE: Final = re.compile(
    "null|none|nil|undefined|true|false|default|empty|new|return|throw|await|yield|break|continue|string|str|int|float|"
    "double|bool|boolean|char|bytes|object|any|unknown|void|var|secretstr|emailstr|text|number|optional|required|missing|"
    "invalid|expired"
)
_NO_KEY: Final = re.compile(
    r"(?:\b(?:class|struct|interface|record|enum|case|where|lambda|if|elif|while|in|def|func|function|unexpected|"
    r"expected|illegal)[ \t]{1,8}|\?[ \t]{1,8})\\{0,8}[\"'`]?$"
)
_STATEMENT: Final = re.compile(r"(?:^|\n|\\n)[^\n;=\"'?&]*$")
_STATEMENT_ENDS: Final = re.compile(r";[ \t]*+(?:\r?\n|$|//|\\{1,31}[rn])")
_IN_CALL: Final = re.compile(r"\w\([^()\n]*$")
_LONGEST_LOOK: Final = 512


class ScrubError(SlateError):
    """A value cannot be scrubbed, so it must not be published."""


def scrub(value: Any) -> Any:
    """A JSON-like value without anything personal: the same object where there was nothing, else a copy.

    Dict keys are scrubbed as text, and the `value` beside a personal `name` or `key` is redacted. Objects that are not
    of JSON stay as they are.

    Raises:
        ScrubError: nested deeper than `MAX_DEPTH`; such a payload would be refused anyway.
    """
    return _scrubbed(None, value, 0)


def scrub_text(text: str) -> str:
    """A text without what looks personal or secret; see the module. The same object where there was nothing."""
    for _ in range(8):  # what is joined to something personal can be told only when that is gone
        before, text = text, _scrubbed_text(text)
        if text is before:
            break
    return text


def _scrubbed_text(text: str) -> str:
    before = text
    if "PRIVATE KEY-----" in text:
        text = _PEM.sub(lambda match: "[private key]" if _KEY_MATERIAL.search(match[0]) else match[0], text)
    at = "@" in text
    if at and ("://" in text or ":\\/" in text):
        text = _URL_USER.sub(_without_user, text)
    lower = text.replace("\u0130", "i").lower()  # the one letter that has a longer small form
    if (":" in text or "=" in text or "--" in text) and any(map(lower.__contains__, _HINTS)):
        text = _without_assigned(text, lower)
    if _TOKEN_HINT.search(text):
        text = _TOKEN.sub("[token]", text)
    if "bearer" in lower or "basic" in lower:
        text = _SCHEME.sub(_without_credentials, text)
    if at:
        text = _MAIL.sub(_without_mail, text)
    if any(map(text.__contains__, "1234567890")):
        text = _DIGITS.sub(partial(_without_numbers, "@@" in text), _SEED_OF_NKEY.sub("[token]", text))
    return before if text == before else text


def _scrubbed(key: Any, value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return scrub_text(value)
    if isinstance(value, _NUMBERS):
        file_id = isinstance(key, str) and key.endswith(("id", "Id", "ID"))  # Unity's have as many digits as cards
        return "[card]" if not file_id and _is_card_number(value) else value
    if not isinstance(value, dict | list | tuple):
        return value
    if depth == MAX_DEPTH:
        raise ScrubError(f"a payload is nested deeper than {MAX_DEPTH} levels: make it flatter")
    if isinstance(value, dict):
        return _scrubbed_dict(value, depth)
    items = [_scrubbed(key, item, depth + 1) for item in value]
    if all(map(is_, items, value)):
        return value
    return items if isinstance(value, list) else tuple(items)


def _scrubbed_dict(value: dict[Any, Any], depth: int) -> dict[Any, Any]:
    title = value.get("name", value.get("key")) if "value" in value else None
    named = isinstance(title, str) and _kind(title) == "any"
    made: dict[Any, Any] = {}
    for key, item in value.items():
        name, kind = _key(key) if isinstance(key, str) else (key, "")
        if named and key == "value":
            kind = "any"
        if item is None or isinstance(item, bool) or item == "" or (kind == "text" and isinstance(item, _NUMBERS)):
            kind = ""
        while name in made:
            name = f"{name}'"
        made[name] = REDACTED if kind and item != REDACTED else _scrubbed(key, item, depth + 1)
    return value if list(made) == list(value) and all(map(is_, made.values(), value.values())) else made


def _key(key: str) -> tuple[str, str]:
    """A dict key as it may leave, and what it says."""
    return _short_key(key) if len(key) <= _LONGEST_KEY else _short_key.__wrapped__(key)


@lru_cache(4096)
def _short_key(key: str) -> tuple[str, str]:
    return (name := scrub_text(key)), _kind(name)


def _kind(key: str) -> str:
    """What a key makes personal: "" nothing, "any" value, "text" but no number: it counts or measures."""
    words = [word.lower() for word in _WORD.findall(_PUT.sub("", key[-_LONGEST_KEY:].replace("iPhone", "")))]
    while len(words) > 1 and words[-1].isdigit():
        words.pop()
    for count in range(1, min(4, len(words)) + 1):
        name, before = "".join(words[-count:]), words[-count - 1] if len(words) > count else ""
        if _NAMES.fullmatch(name):
            return "text" if name == "token" and _MEASURES.fullmatch(before) else "any"
        if _NAMES.fullmatch(name.removesuffix("s")) and (name != "tokens" or _TOKENS.fullmatch(before)):
            return "text"
    return ""


def _is_card_number(number: float | Decimal) -> bool:
    whole = isinstance(number, int) or (isinstance(number, Decimal) and number.is_finite())
    return whole and 10**12 <= number < 10**19 and number == int(number) and _is_card(str(int(number)))


def _is_card(digits: str) -> bool:
    doubled = sum((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)[int(digit)] for digit in digits[-2::-2])
    return _ISSUED.fullmatch(digits) is not None and (doubled + sum(map(int, digits[::-2]))) % 10 == 0


def _without_user(match: re.Match[str]) -> str:
    user, _, password = match[2][:-1].partition(":")
    kept = (user in ("", "git") and not password) or _PLACEHOLDER.fullmatch(password or user)
    return match[0] if kept else f"{match[1]}{REDACTED}@"


def _without_credentials(match: re.Match[str]) -> str:
    """`Basic` says user:password in base64; what follows `Bearer` is a token where it cannot be a word."""
    scheme, blank, given = match.groups()
    secret = any(map(str.isdigit, given)) or len(given) >= 20
    if scheme.lower() == "basic":
        try:
            secret = ":" in base64.b64decode(given + "=" * (-len(given) % 4), validate=True).decode()
        except ValueError:
            secret = False
    return f"{scheme}{blank}[token]" if secret else match[0]


def _without_mail(match: re.Match[str]) -> str:
    if _FILES.fullmatch(match[3].rpartition(".")[2].lower()):
        return match[0]
    escaped = match[2][0] in "nrt" and match.string[max(0, match.start() - 1) : match.start()] == "\\"
    return f"{match[1]}{match[2][0] if escaped else ''}[email]"


def _without_numbers(in_diff: bool, match: re.Match[str]) -> str:
    if not _SEVEN_DIGITS.match(match[0]):
        return match[0]
    text, (start, end) = match.string, match.span()
    before, after = text[max(0, start - _CONTEXT) : start], text[end : end + _CONTEXT]
    sign, number = "", match[0]
    if in_diff and number[0] == "+" and before.endswith(("\n", "\\n")):
        sign, before, number = "+", " ", number[1:]  # a line that a diff adds
    part = f"{before}{number}{after}"
    if _PHONE_NEXT.search(text, max(0, start - 24), start):
        part = before + _LOCAL_PHONE.sub("[phone]", part[len(before) :])
    part = _CARD.sub(lambda card: "[card]" if _is_card(re.sub("[ -]", "", card[0])) else card[0], part)
    part = _PHONE.sub(_without_phone, _SSN.sub("[ssn]", part))
    return sign + part[len(before) : len(part) - len(after)]


def _without_phone(match: re.Match[str]) -> str:
    number = match["international"]
    if number is None:
        return "[phone]"
    country, *groups = re.findall(r"\d+", number)
    digits = country + "".join(groups)
    right = len(digits) == 11 and digits[1] > "1" if digits[0] == "1" else len(groups) > 0 or len(digits) >= 10
    single = sum(len(group) == 1 and group != "0" for group in groups)
    if groups:
        right = right and len(country) <= 3 and number.count(".") != 1
    return "[phone]" if right and single <= (len(groups) > 3 and "." not in number) else number


def _without_assigned(text: str, lower: str) -> str:
    parts: list[str] = []
    done = looked = 0
    for core in _CORE.finditer(lower):
        if core.start() < looked:
            continue
        head = text[max(looked, core.start() - _LONGEST_KEY) : core.start()]
        start = core.start() - len(head) + len(head.rstrip(_KEY_CHARACTERS))
        match = _ASSIGNMENT.match(text, start)
        if match is None:
            continue
        looked = match.end("key")
        no_key = _PUT.match(text, start - 1) or _NO_KEY.search(text, max(0, start - 32), start)
        if no_key or match["given"] is None:
            continue
        kind = _kind(match["key"])
        if not kind and match["key"][0] in "nrt" and text[start - 1 : start] == "\\":
            kind = _kind(match["key"][1:])
        found = _assigned(text, match, kind) if kind else None
        if found is not None:
            parts += text[done : found[0]], found[2]
            done = looked = found[1]
    return "".join([*parts, text[done:]]) if parts else text


def _assigned(text: str, match: re.Match[str], kind: str) -> tuple[int, int, str] | None:
    """Where the literal is that a personal key of a text is given, if it is one, and what stands for it."""
    start = match.end()
    quoted = _QUOTED.match(text, start)
    if quoted is not None:
        start, end = quoted.span("value")
        if start == end or (not match["close"] and text.startswith(_CLOSING, start)):
            return None  # an empty string, or the quote ends one: "token: " + token
        return None if _PLACEHOLDER.fullmatch(text, start, end) else (start, end, REDACTED)
    if match["close"]:
        return _json_value(text, match, kind)
    bare = _BARE.match(text, start)
    if bare is None or (match["sep"] not in (None, ":") and (match["blank"] or text[start - 1] != "=")):
        return None
    end = start + len(bare[0].rstrip(")].:!?" if "{" in bare[0] else ")]}.:!?"))
    if end - start <= _LONGEST_LOOK and (start == end or _is_code(text, match, kind, text[start:end], bare[0])):
        return None
    return start, end, REDACTED


def _json_value(text: str, match: re.Match[str], kind: str) -> tuple[int, int, str] | None:
    """A number, or an object or array up to its end; one that is cut off goes to the end of the text."""
    start, quote = match.end(), match["level"] + match["close"]
    instead = quote + REDACTED + quote
    number = _NUMBER.match(text, start) if match["sep"] == ":" else None
    if number is not None and kind == "any":
        return start, number.end(), instead
    if match["sep"] != ":" or not text.startswith(("{", "["), start):
        return None
    depth = 0
    for token in _NESTING.finditer(text, start):
        if token["quote"]:
            if len(token["level"]) < len(match["level"]):
                return start, token.start(), instead  # the string that holds this JSON ends
            continue
        depth += -1 if token["shut"] else 1
        if depth == 0:
            return start, token.end(), instead
    return start, len(text), instead


def _is_code(text: str, match: re.Match[str], kind: str, value: str, written: str) -> bool:
    """Whether what a key is given without quotes is no literal: a name, a call, a type, a word of a sentence."""
    end = match.end() + len(value)
    line = text[max(0, match.start() - 128) : match.start()]
    path = _PATH.fullmatch(value)
    format_of = line.endswith("{") and text[match.end() - 1] == ":" and len(value) <= 4  # {phone:F2}
    if format_of or _PLACEHOLDER.fullmatch(value) or _CALL.match(written) or _NO_VALUE.fullmatch(value.lower()):
        return True
    if _NUMBER.fullmatch(value):
        return kind == "text" or len(value) <= 3
    if path is None:
        return False
    if _kind(path[1]) or text.startswith("<", end):
        return True
    if match["sep"] == "=":
        return _STATEMENT.search(line) is not None and _STATEMENT_ENDS.match(text, end) is not None
    sentence = value.islower() and text[end : end + 1] == " " and text[end + 1 : end + 2].islower()
    code = text[end : end + 8].lstrip(" \t").startswith((";", "=")) or _IN_CALL.search(line)
    return match["sep"] == ":" and not any(map(str.isdigit, value)) and bool(sentence or code)
