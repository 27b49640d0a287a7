"""Nothing personal leaves (G7), and nothing else is touched: code least of all."""

import json
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.events import MAX_DEPTH
from realtime.scrub import REDACTED, ScrubError, scrub, scrub_text

# Put together, so that no scanner of repositories takes them for real.
JWT = "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiJib2IifQ." + "c2lnbmF0dXJlLW9mLWJvYg"
PEM = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA7bq1" * 8 + "\n-----END RSA PRIVATE KEY-----"
SECRETS = [
    "sk-" + "aB3dE5fG7hJ9kL1mN3pQ",
    "sk-proj-" + "aB3_dE5-fG7hJ9kL1mN3pQ5r",
    "ek_" + "68a1b2c3d4e5f6a7b8c9d0e1",
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "11ABCDEFG0" * 4,
    "xoxb-" + "123456789012-abcdefABCDEF",
    "AKIA" + "IOSFODNN7EXAMPLE",
    "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
    "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "SU" + "AB2CD3EF" * 7,
    JWT,
]
CARDS = ["4111111111111111", "4111 1111 1111 1111", "5555-5555-5555-4444", "378282246310005", "3782 822463 10005"]
CARDS += ["6011111111111117", "2223003122003222", "4222222222222", "30569309025904"]
PHONES = ["+14155552671", "+1 (415) 555-2671", "+49 170 1234567", "+44 (0)20 7946 0958", "+33 1 23 45 67 89"]
PHONES += ["(415) 555-2671", "415-555-2671", "415.555.2671", "1-800-555-2671", "020 7946 0958", "07911 123456"]
PHONES += ["0170/1234567", "06 12 34 56 78", "03-1234-5678", "(11) 98765-4321"]
FORMS = [
    *[(secret, "[token]") for secret in SECRETS],
    *[(card, "[card]") for card in CARDS],
    *[(phone, "[phone]") for phone in PHONES],
    *[(email, "[email]") for email in ("bob@example.com", "b.o+x@mail.example.co.uk", "müller@straße.de", "1@163.com")],
    ("123-45-6789", "[ssn]"),
    (PEM, "[private key]"),
]

TEXTS = [
    ("Authorization: Bearer abc", "Authorization: [redacted]"),
    ("sent Bearer 0123abcd to it", "sent Bearer [token] to it"),
    ("sent Basic dXNlcjpwYXNz to it", "sent Basic [token] to it"),
    ("nats://user:password@host:4222", "nats://[redacted]@host:4222"),
    ("nats://s3cr3t@host:4222", "nats://[redacted]@host:4222"),
    ("postgres://u:a/b@c@host/db", "postgres://[redacted]@host/db"),
    ('{"url": "https:\\/\\/u:p@host"}', '{"url": "https:\\/\\/[redacted]@host"}'),
    ("nats://a:b@one:1,nats://c:d@two:2", "nats://[redacted]@one:1,nats://[redacted]@two:2"),
    ("SECRET=/bPxRfiCYEX+/== TOKEN=$ecret1", "SECRET=[redacted] TOKEN=[redacted]"),
    ("PASSWORD=hunter2 make", "PASSWORD=[redacted] make"),
    ("PGPASSWORD=hunter2", "PGPASSWORD=[redacted]"),
    ("Host=db;Password=hunter2;Port=1", "Host=db;Password=[redacted];Port=1"),
    ("https://a.b/c?access_token=x1&d=2", "https://a.b/c?access_token=[redacted]&d=2"),
    ("password: hunter2", "password: [redacted]"),
    ("API key: k1, credit card number: 12345", "API key: [redacted], credit card number: [redacted]"),
    ("X-Api-Key: swordfish", "X-Api-Key: [redacted]"),
    ("--password swordfish --token=x1", "--password [redacted] --token=[redacted]"),
    ("--client-secret 'a b'", "--client-secret '[redacted]'"),
    ('string password = "hunter2";', 'string password = "[redacted]";'),
    ('headers["Authorization"] = @"abc";', 'headers["Authorization"] = @"[redacted]";'),
    ("{'token': 'abc', 'n': 1}", "{'token': '[redacted]', 'n': 1}"),
    (r'{"password":"hun\"ter2","n":1}', '{"password":"[redacted]","n":1}'),
    (r'{"password":"ends in \\","n":1}', '{"password":"[redacted]","n":1}'),
    (r"{\"password\": \"hun\\\"ter2\", \"n\": 1}", r"{\"password\": \"[redacted]\", \"n\": 1}"),
    ('{"phone": 4155552671, "n": 1}', '{"phone": "[redacted]", "n": 1}'),
    ('{"secret": {"a": ["]", 1]}, "n": 1}', '{"secret": "[redacted]", "n": 1}'),
    ('{"secret": {"a": ["cut of', '{"secret": "[redacted]"'),
    ('{"password": "cut of', '{"password": "[redacted]'),
    (r'"{\"secret\": [1, {\"cut" of', r'"{\"secret\": \"[redacted]\"" of'),
    (r"first\ntoken=hunter2\nuser=x", r"first\ntoken=[redacted]\nuser=x"),
    ("[token]:x1, [private key]: x2", "[token]:x1, [private key]: x2"),
    (r"first\nbob@example.com\n415-555-2671", r"first\n[email]\n[phone]"),
    ("Phone: 415 555 2671", "Phone: [phone]"),
    ("Tel. 4155552671", "Tel. [phone]"),
    ("call 415-555-2671.", "call [phone]."),
    ("1-800-555-2671+44 (0)20 7946 0958", "[phone][phone]"),
    ("a@mail.example.co.ux@mail.example.co.uk", "[email].[email]"),
    ("@@ -1 +1,2 @@\n+// by bob@example.com, 415-555-2671", "@@ -1 +1,2 @@\n+// by [email], [phone]"),
]

PERSONAL_KEYS = (
    "password token secret apiKey email phone ssn creditCard authorization accessToken user_email X-Api-Key "
)
PERSONAL_KEYS += (
    "apikey API_KEY client_secret Authorization passwordHash phoneNumber eMail password2 userSSN clientsecret"
)
OPEN_KEYS = (
    "tokensPrompt tokens_completion tokenCount max_output_tokens secretDoor tokenizer emailVerified iPhone card "
)
OPEN_KEYS += "passwordStrength phoneModel microphone voicemail authorizationCount keyCode compass tokens secretary"

CODE = r"""// Copyright (c) 2019-2024 Example Studios. Version 6000.0.23f1, package com.unity.inputsystem@1.7.0-pre.abc
// SPDX-License-Identifier: MIT; https://docs.unity3d.com:443/Manual/class-MonoBehaviour.html#section-1.2.3
using System.Collections.Generic;
using System.Text.RegularExpressions;
using UnityEngine;

namespace Game.Economy
{
    /// <summary>Token: spawns what the player collects; the secret: never twice in 1764000000000 ms.</summary>
    [RequireComponent(typeof(Collider)), AddComponentMenu("Game/Token Spawner")]
    public class TokenSpawner: MonoBehaviour
    {
        [Header("Tokens"), Range(0, 100)] [SerializeField] private int token = 3;
        [SerializeField] private List<Token> tokens = new List<Token>();
        [SerializeField] private InputField input;
        private const float Gravity = -9.81f;
        private const long Seed = 4111111111111111L, Ticks = 638700000000000000;
        private static readonly Regex Mail = new Regex(@"^[\w.+-]+@[\w-]+\.[\w.]+$"), Area = new(@"\d{3}-\d{2}-\d{4}");
        private readonly Dictionary<string, Token> byName = new() { ["gold"] = default };
        private readonly System.Guid id = new("550e8400-e29b-41d4-a716-446655440000");
        private readonly int[] table = { 415, 555, 2671, 0x4111, 1_000_000 };
        public string Password => input.text;
        public string Email { get; set; } = string.Empty;
        public string Secret { get; private set; } = "";
        public Token? Next(Token token) => token ?? tokens.Find(token => token.Id == 7);
        enum Kind { Token=1, Secret=2, Phone=3 }

        private void Update()
        {
            string token = ReadToken();
            string password = "", email = '';
            var secret = (password: Password, email: Email);
            this.password=input.text;
            if (token == "COIN" || token != null) { --count; count = count --token; }
            transform.position += new Vector3(1.5f, 2.25f, 3) * Time.deltaTime + new Vector3(-122.4194f, 37.7749f, 0);
            Debug.Log("token: " + token + ", password:" + Password.Length);
            Debug.Log($"Token: {token}, Secret: {secret}, Phone: {phone:F2}");
            Login(password: pw, token: Read(token: key), email: null);
            field.contentType = shown ? "password" : "text";
            url = $"nats://{user}:{password}@{host}"; query = "?token=" + token + "&email=" + email;
            client.Authorization = new AuthenticationHeaderValue("Bearer", token); header = "Bearer " + token;
            switch (kind) { case "password": { Hide(); break; } case "token": return; case Token: break; }
            Assert.AreEqual("-----BEGIN PRIVATE KEY-----", first, "-----END PRIVATE KEY-----");
            var path = @"C:\new\token\Assets\Hero@Walk.fbx"; var @class = a.@class.Name + @this.Value;
        }
    }
}
"""
DIFF = """--- a/Assets/Scripts/Wallet.cs
+++ b/Assets/Scripts/Wallet.cs
@@ -112,7 +112,9 @@ public class Wallet : MonoBehaviour
     private string token;
-    public Token Take() => secret.Take(100, 200);
+    public Token Take(Token token = null) => token ?? secret.Take(123456789, 3.14159265f);
+4155552671234
+1234567890
"""
TELEMETRY = """Assets/Scripts/Foo.cs(3,1): error CS1002: ; expected
Assets/Foo.cs(12,9): error CS0103: The name 'token' does not exist in the current context
'Token': inaccessible due to its protection level; unexpected token: } at 415:555
Player@0123456789abcdef Hero@Walk.fbx Icon@2x.png @scope/pkg@1.2.3 git@github.com:org/repo.git ssh://git@a.b/c.git
192.168.100.200 10.0.0.1:4222 2022.3.10f1 131.0.6778.86 2025-11-25T10:00:00.123+01:00 1764000000000 +52.520008, +13.4
d41d8cd98f00b204e9800998ecf8427e da39a3ee5e6b4b0d3255bfef95601890afd80709 00 01 02 03 04 05 06 01-23-45-67-89-AB
m_Mesh: {fileID: 4111111111111111, guid: 0123456789abcdef0123456789abcdef, type: 3}  --- !u!1 &4111111111111111
password: must contain a digit. token: str, password: ${PASSWORD}, tokens=12, max_tokens: 4096, token: <token>
Basic PlayerController, Bearer authentication, class sk-folding-cube-loading-animation, 900-12-1234, 4111111111111112
+200.5 200.25 300, +200 5 1000 20
"""

words = st.text("abcdefghij KLM.,;\n\"'\\/{}[]:=-", max_size=12)
leaves = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False) | words
harmless = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcde", max_size=3), inner, max_size=3)
)
wraps = st.lists(st.tuples(st.sampled_from(["list", "tuple", "dict", "key", "text", "json"]), harmless), max_size=12)


def wrapped(value: Any, layers: list[tuple[str, Any]]) -> Any:
    """The value somewhere within a document, at times within JSON within a string; at most three of those."""
    for number, (layer, beside) in enumerate(layers):
        if layer == "key" and isinstance(value, str):
            value = {value: beside}
        elif layer == "text" and isinstance(value, str):
            value = f"first line\n{value}\tthe rest"
        elif layer == "json" and [kind for kind, _ in layers[:number]].count("json") < 3:
            value = json.dumps(value)
        elif layer == "tuple":
            value = (value, beside)
        else:
            value = {"a": beside, "b": value} if layer == "dict" else [beside, value, beside]
    return value


@pytest.mark.parametrize(("personal", "instead"), FORMS)
def test_a_personal_value_is_replaced_wherever_it_stands_in_a_text(personal: str, instead: str) -> None:
    assert scrub_text(personal) == instead
    assert scrub_text(f"It is {personal}.") == f"It is {instead}."
    assert scrub_text(f'one\n("{personal}", x)\ntwo') == f'one\n("{instead}", x)\ntwo'
    assert scrub({"items": [{"note": personal}], personal: 1}) == {"items": [{"note": instead}], instead: 1}


@pytest.mark.parametrize(("text", "scrubbed"), TEXTS)
def test_a_text_loses_its_secrets_and_nothing_else(text: str, scrubbed: str) -> None:
    assert scrub_text(text) == scrubbed
    assert scrub_text(scrubbed) == scrubbed


@pytest.mark.parametrize("key", PERSONAL_KEYS.split())
@pytest.mark.parametrize("value", ["hunter2", 4155552671, 1.5, Decimal(2), ["a"], {"b": "c"}, ("d",)])
def test_a_personal_key_loses_its_value_whatever_that_is(key: str, value: object) -> None:
    assert scrub({"outer": [{key: value, "kept": 1}]}) == {"outer": [{key: REDACTED, "kept": 1}]}


@pytest.mark.parametrize("key", PERSONAL_KEYS.split())
@pytest.mark.parametrize("value", [None, True, False, ""])
def test_a_value_that_tells_nothing_stays_under_a_personal_key(key: str, value: object) -> None:
    document = {key: value}
    assert scrub(document) is document


@pytest.mark.parametrize("key", OPEN_KEYS.split())
def test_a_key_that_only_sounds_personal_keeps_its_value(key: str) -> None:
    document = {key: ["x", 12]}
    assert scrub(document) is document


def test_a_number_stays_where_the_key_counts_or_measures() -> None:
    document = {"emails": 3, "secrets": 2, "timeToFirstToken": 212, "costPerToken": Decimal("0.00001")}
    assert scrub(document) is document
    assert scrub({"emails": "bob", "accessTokens": ["x"]}) == {"emails": REDACTED, "accessTokens": REDACTED}


def test_a_value_beside_a_personal_name_is_redacted() -> None:
    headers = [{"name": "Authorization", "value": "abc"}, {"key": "password", "value": 1}, {"name": "a", "value": 1}]
    assert [header["value"] for header in scrub(headers)] == [REDACTED, REDACTED, 1]


def test_a_number_that_is_a_card_is_replaced_unless_it_is_an_id() -> None:
    assert scrub([4111111111111111, Decimal(4111111111111111)]) == ["[card]", "[card]"]
    kept = {
        "fileID": 4111111111111111,
        "n": [4111111111111112, 1764000000000, 4111111111111111.0, Decimal("NaN"), 10**400],
    }
    assert scrub(kept) is kept


def test_keys_that_become_the_same_keep_their_values() -> None:
    assert scrub({"a@b.com": 1, "c@d.com": 2}) == {"[email]": 1, "[email]'": 2}


def test_the_input_is_not_changed_and_what_is_harmless_is_shared() -> None:
    harmless_part = {"x": [1, 2]}
    document = {"kept": harmless_part, "mail": ["bob@example.com"], "pair": ("bob@example.com", 1)}
    before = json.dumps(document)
    scrubbed = scrub(document)
    assert json.dumps(document) == before
    assert scrubbed["kept"] is harmless_part
    assert scrubbed["pair"] == ("[email]", 1)


def test_the_deepest_payload_is_scrubbed_and_a_deeper_one_refused() -> None:
    for wrap in (lambda inner: [inner], lambda inner: {"a": inner}):
        document: Any = "bob@example.com"
        for _ in range(MAX_DEPTH):
            document = wrap(document)
        assert "[email]" in json.dumps(scrub(document))
        with pytest.raises(ScrubError, match="deeper than 256 levels"):
            scrub(wrap(document))
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ScrubError):
        scrub(circle)


@pytest.mark.parametrize("line", [*CODE.split("\n"), *TELEMETRY.split("\n"), DIFF])
def test_code_and_telemetry_are_not_touched(line: str) -> None:
    assert scrub_text(line) is line


def test_a_whole_script_is_not_touched_nor_as_json_within_json() -> None:
    for text in (CODE, TELEMETRY, CODE.replace("\n", "\r\n"), DIFF):
        assert scrub_text(text) == text
        for document in (
            {"scriptContent": text},
            {"arguments": json.dumps({"code": text, "args": json.dumps([text])})},
        ):
            assert scrub(document) is document


@given(st.sampled_from([form for form, _ in FORMS]), wraps)
@settings(deadline=None)
def test_a_planted_value_never_comes_out(personal: str, layers: list[tuple[str, Any]]) -> None:
    document = wrapped(personal, layers)
    scrubbed = scrub(document)
    assert personal not in json.dumps(scrubbed, ensure_ascii=False)
    assert json.dumps(personal)[1:-1] not in json.dumps(scrubbed)
    assert scrub(scrubbed) == scrubbed


@given(
    st.sampled_from(PERSONAL_KEYS.split()),
    st.recursive(st.just("cAnaRy7") | st.just('it\'s "cAnaRy7"\\\n'), lambda inner: st.lists(inner) | st.tuples(inner)),
    wraps,
)
@settings(deadline=None)
def test_what_a_personal_key_holds_never_comes_out(key: str, value: Any, layers: list[tuple[str, Any]]) -> None:
    scrubbed = scrub(wrapped({key: value, "n": 1}, layers))
    assert value in ([], ()) or "cAnaRy7" not in json.dumps(scrubbed)
    assert scrub(scrubbed) == scrubbed


@given(
    st.dictionaries(
        st.sampled_from([*PERSONAL_KEYS.split(), "a", "b@example.com"]),
        st.integers() | st.sampled_from([form for form, _ in FORMS]) | harmless,
    )
)
@settings(deadline=None)
def test_json_in_a_string_stays_json(document: dict[str, Any]) -> None:
    for text in (json.dumps(document), json.dumps(document, indent=1, ensure_ascii=False)):
        json.loads(scrub_text(text))
        json.loads(json.loads(scrub_text(json.dumps(text))))


@given(harmless)
def test_a_document_without_anything_personal_comes_back_itself(document: Any) -> None:
    assert scrub(document) is document


@given(st.text(), st.sampled_from([form for form, _ in FORMS] + [text for text, _ in TEXTS]), st.text())
@settings(deadline=None)
def test_scrubbing_again_changes_nothing(before: str, personal: str, after: str) -> None:
    once = scrub_text(before + personal + after)
    assert scrub_text(once) == once


HOSTILE = """
from time import process_time
from realtime.scrub import scrub_text
parts = ["a", "1", "-", " ", "@", "a@", "x@a.", "://", "://a:", "eyJ.", "eyJhbGciOiJIUzI1NiJ9.", '"password":', "1-"]
parts += ["password=", "password: ", '"password":{', '"password":["', "password=${", "--token ", "token", "+1 "]
parts += ['\\\\"', 'password="\\\\', "bearer ", "-----BEGIN PRIVATE KEY-----", "phone 1 ", "token: a ", "f(token: x, "]
parts += ["(415) ", "sk-", "AKIA", "token=x;\\n", "\\n+1234567", "\\\\n", "[", "'", "basic aaaaaaaa", "\\\\", "4111 "]
for part in parts:
    for start in ("", 'password: @ token="x" bearer phone 1 :// eyJ '):
        began = process_time()
        scrub_text(start + (part * 200_000)[:200_000])
        if process_time() - began > 3:
            print(repr(part))
"""


def test_hostile_texts_of_200_kb_take_linear_time() -> None:
    """3 s of CPU for each: a linear pattern needs a tenth of that, a quadratic one longer."""
    done = subprocess.run([sys.executable, "-c", HOSTILE], timeout=240, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
