"""Alert rules: any text is a file of rules, or is refused in words."""

from math import isfinite
from pathlib import Path
from random import Random
from typing import Final

from connectors.errors import ConfigurationError
from flows.alert_rules import parse
from tests.fuzz.target import Target, in_time

_SHIPPED: Final = Path(__file__).parents[2] / "deploy" / "alerts.toml"

_VALUES: Final = [
    *(
        b"nan",
        b"-inf",
        b"-1",
        b"0",
        b"1e308",
        b"9223372036854775808",
        b"true",
        b'""',
        b'"5m"',
        b'"\\u0000"',
        b"[]",
        b"{}",
    ),
    *(b"1979-05-27", b'["name"]', b"[[1]]", b'{a = "b"}', b'"{value}{rule.x}"', b'"all"', b"[50, 20]", b'"calls"'),
]


def check(data: bytes) -> None:
    """Nothing else than `ConfigurationError`, and the file that is taken can be asked."""
    try:
        with in_time():
            rules = parse(data.decode("utf-8", "replace"), "rules.toml")
    except ConfigurationError:
        return
    assert rules.longest_window_s > 0
    assert rules.dimensions_of_usage is not None
    for rule in rules.rules:
        rules.receivers_of({"alertname": rule.name, "severity": rule.severity} | rule.labels)
        assert isfinite(rule.threshold), "a threshold that nothing passes"
    for budget in rules.budgets:
        assert budget.levels
        assert budget.identity.startswith(budget.name)
        assert budget.measure


def seeds() -> list[bytes]:
    """The shipped file, whole and in its tables."""
    text = _SHIPPED.read_text("utf-8")
    tables = [("[[" + table).encode() for table in text.split("[[")[1:]]
    deep = [b"rules = " + b"[" * 1500, b"rules = " + b"{a=" * 700, b"a." * 1500 + b"b = 1", b"a = " + b"9" * 4500]
    return [text.encode(), *tables, *deep]


def words() -> list[bytes]:
    """Pieces of a file."""
    pieces = ["[[rules]]\n", "[[budgets]]\n", "[[receivers]]\n", "[[routes]]\n", 'name = "a"\n', 'signal = "silence"\n']
    pieces += [
        "above = nan\n",
        "below = -inf\n",
        'window = "5m"\n',
        'group_by = ["name"]\n',
        "at = [50]\n",
        "tokens = 1\n",
    ]
    pieces += [
        "[" * 50,
        "{a=" * 20,
        '"""',
        "'''",
        "[rules.where]\n",
        'inhibited_by = "a"\n',
        "1979-05-27",
        "9" * 50,
        "\\U0001",
    ]
    return [piece.encode() for piece in pieces]


def mutate(data: bytes, random: Random) -> bytes:
    """The file with a line more, less or moved, or with another value behind `=`."""
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    match random.randrange(5):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, random.choice(lines))
        case 2:
            lines.insert(at, random.choice(words()).strip())
        case _:
            name, equals, _ = lines[at].partition(b"=")
            lines[at] = name + (equals or b"=") + random.choice(_VALUES)
    return b"\n".join(lines)


TARGET: Final = Target("rules", check, seeds, words, mutate)
