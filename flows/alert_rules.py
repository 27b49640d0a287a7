"""Alert rules as data: what a TOML file may say, and clear words about what is wrong in it. Pure.

A file that is not right is refused as a whole; the message names each fault with its line, its field and what would be
allowed.
"""

import hashlib
import re
import string
import tomllib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from connectors.errors import ConfigurationError
from connectors.receivers import ReceiverModel, Route
from connectors.sums import TICK_US
from flows.alert_signals import MEASURES, Measure

TICK_S: Final = TICK_US // 1_000_000
LONGEST_WINDOW_S: Final = 86_400
RESERVED: Final = frozenset({"alertname", "severity", "overflow", "level"})
"""Labels that alerts have anyway."""
SEVERITIES: Final = ("info", "warning", "critical")

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_NAME: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"
_PLACEHOLDERS: Final = ("value", "samples", "threshold", "window", "rule", "reason")


def _duration(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError('must be a duration such as "30s", "5m", "1h" or "1d"')
    if isinstance(value, int):
        return value
    parts = re.findall(r"(\d+)([smhd])", value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise ValueError('must be a duration such as "30s", "5m", "1h" or "1d"')
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


Seconds = Annotated[int, BeforeValidator(_duration), Field(ge=0, le=30 * 86_400)]
Severity = Literal["info", "warning", "critical"]
Texts = dict[str, str]


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


Where = dict[str, Annotated[list[str], BeforeValidator(_one_or_more), Field(min_length=1)]]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Common(_Model):
    """What rules and budgets share."""

    name: Annotated[str, Field(pattern=_NAME)]
    where: Where = {}
    limit: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Groups of it that are told of at a time; the others are counted in one alert about them all."""
    labels: Texts = {}
    annotations: Texts = {}
    runbook: str | None = None

    @field_validator("labels")
    @classmethod
    def _label_names(cls, labels: Texts) -> Texts:
        for name, value in labels.items():
            if not _LABEL.fullmatch(name) or name.startswith("__"):
                raise ValueError(f"{name!r} is no label: letters, digits and _, not beginning with a digit or __")
            if name in RESERVED or any(name in measure.dimensions for measure in MEASURES.values()):
                raise ValueError(f"{name!r} is a label that alerts have anyway; choose another name")
            if not value:
                raise ValueError(f"{name!r} must not be empty")
        return labels


class Rule(_Common):
    """A rule: when a figure of a window is past a threshold, it fires, once for each group."""

    signal: Literal[tuple(MEASURES)]  # type: ignore[valid-type]
    group_by: list[str] = []
    window: Annotated[Seconds, Field(ge=TICK_S, le=LONGEST_WINDOW_S)] = 300
    above: float | None = None
    below: float | None = None
    clear: float | None = None
    """The value at which it is over; the threshold itself unless it is set."""
    for_: Annotated[Seconds, Field(alias="for")] = 0
    clear_after: Seconds = 0
    severity: Severity = "warning"
    cooldown: Seconds = 0
    min_samples: Annotated[int, Field(ge=1)] = 1
    no_data: Literal["resolve", "keep", "fire"] = "resolve"
    inhibited_by: str | None = None

    @property
    def measure(self) -> Measure:
        """What is measured."""
        return MEASURES[self.signal]

    @property
    def threshold(self) -> float:
        """Past which it fires."""
        bound = self.below if self.above is None else self.above
        assert bound is not None  # noqa: S101 - the check below lets no other pass
        return bound

    @model_validator(mode="before")
    @classmethod
    def _silence(cls, told: Any) -> Any:
        if isinstance(told, dict) and told.get("signal") == "silence":
            if "above" in told or "below" in told:
                raise ValueError("above: silence has no threshold; `window` says for how long nothing came")
            return told | {"below": 1.0}
        return told

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _check_dimensions(self.group_by, "group_by", self.measure, self.signal)
        _check_dimensions(self.where, "where", self.measure, self.signal)
        if len(set(self.group_by)) < len(self.group_by):
            raise ValueError("group_by: a label comes twice")
        if (self.above is None) == (self.below is None):
            raise ValueError("above: one of `above` and `below` is needed, and not both")
        if self.window % TICK_S:
            raise ValueError(f"window: must be a multiple of {TICK_S} s")
        if self.clear is not None and (
            self.clear > self.threshold if self.above is not None else self.clear < self.threshold
        ):
            side = "below" if self.above is not None else "above"
            raise ValueError(f"clear: must be {side} the threshold of {self.threshold:g}, or equal it")
        if self.no_data == "fire" and self.group_by:
            raise ValueError("no_data: `fire` is for rules without group_by: a group without data is not known")
        _check_texts(self.annotations, (*_PLACEHOLDERS, *self.group_by))
        return self


class Budget(_Common):
    """What may be spent in a period; each level of it fires once in a period, and is over with it."""

    tokens: Annotated[int, Field(gt=0)] | None = None
    cost: Annotated[float, Field(gt=0)] | None = None
    """US dollars."""
    per: Literal["user", "session", "model", "all"]
    period: Literal["hour", "day", "month"]
    at: Annotated[list[Annotated[int, Field(ge=1, le=1000)]], Field(min_length=1, max_length=10)] = [50, 80, 100]
    """Per cent of it."""
    severities: list[Severity] = []
    """Of each level; by default `info` for all but the last, which is a `warning`."""

    @property
    def dimensions(self) -> list[str]:
        """The labels of a group."""
        return [] if self.per == "all" else [self.per]

    @property
    def measure(self) -> Measure:
        """What is spent."""
        return MEASURES["tokens" if self.tokens is not None else "cost"]

    @property
    def identity(self) -> str:
        """What is summed up: a budget that sums up something else is another one, whatever its name."""
        what = (self.per, self.period, self.tokens is None, sorted(self.where.items()))
        return f"{self.name}:{hashlib.blake2b(repr(what).encode(), digest_size=8).hexdigest()}"

    @property
    def levels(self) -> list[tuple[int, Severity]]:
        """Per cents, the lowest first, with the severity of each."""
        told: list[Severity] = self.severities or [*(["info"] * (len(self.at) - 1)), "warning"]  # type: ignore[list-item]
        return list(zip(self.at, told, strict=True))

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.tokens is None) == (self.cost is None):
            raise ValueError("tokens: one of `tokens` and `cost` is needed, and not both")
        _check_dimensions(self.where, "where", self.measure, "a budget")
        if self.at != sorted(set(self.at)):
            raise ValueError("at: must be ascending per cents, such as [50, 80, 100]")
        if self.severities and len(self.severities) != len(self.at):
            raise ValueError(f"severities: must be {len(self.at)}, one for each of `at`")
        _check_texts(self.annotations, (*_PLACEHOLDERS, *self.dimensions, "spent", "budget", "period"))
        return self


class Rules(_Model):
    """A file: rules, budgets, and who is told of what."""

    rules: list[Rule] = []
    budgets: list[Budget] = []
    receivers: list[ReceiverModel] = []
    routes: list[Route] = []

    @property
    def dimensions_of_usage(self) -> set[str]:
        """The labels of usage that some rule needs."""
        needed: set[str] = set()
        for rule in self.rules:
            if rule.signal in ("tokens", "cost"):
                needed |= {*rule.group_by, *rule.where}
        for budget in self.budgets:
            needed |= {*budget.dimensions, *budget.where}
        return needed

    @property
    def longest_window_s(self) -> int:
        """For how long figures are needed."""
        return max((rule.window for rule in self.rules), default=TICK_S)

    def receivers_of(self, labels: Mapping[str, str]) -> list[str]:
        """Names of the receivers that the routes give for an alert; all where no route matches."""
        found = {name: None for route in self.routes if route.matches(labels) for name in route.receivers}
        return list(found) or [one.name for one in self.receivers]


def load(path: Path) -> Rules:
    """Read a file.

    Raises:
        ConfigurationError: it cannot be read or is not right; says where and what would be allowed.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the alert rules cannot be read: {error}; name a file with SLATE_ALERT_RULES"
        ) from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Rules:
    """Read the text of a file; `name` is for messages.

    Raises:
        ConfigurationError: it is not right.
    """
    try:
        told = tomllib.loads(text)
    except ValueError as error:  # of tomllib, or of int() for a number of thousands of digits
        raise ConfigurationError(f"{name}: {error}") from None
    except RecursionError:
        raise ConfigurationError(f"{name}: nested too deeply") from None
    try:
        rules = Rules.model_validate(told)
    except ValidationError as error:
        problems = [_problem(one["loc"], one, told, text) for one in error.errors()]
    else:
        problems = list(_contradictions(rules, text))
    if problems:
        raise ConfigurationError("\n".join(f"{name}: {one}" for one in problems))
    return rules


def matches(where: Mapping[str, list[str]], label: str, value: str) -> bool:
    """Whether a filter lets a value of a label pass: it equals one of those named, or fits one with `*` in it."""
    return label not in where or any(value == one or fnmatchcase(value, one) for one in where[label])


def _check_dimensions(names: Any, field: str, measure: Measure, signal: str) -> None:
    for name in names:
        if name not in measure.dimensions:
            allowed = ", ".join(measure.dimensions) or "none"
            raise ValueError(f"{field}: {name!r} is no label of {signal}; allowed: {allowed}")


def _check_texts(texts: Texts, allowed: tuple[str, ...]) -> None:
    """Placeholders are plain names: no attributes, no formats."""
    for name, text in texts.items():
        if not _LABEL.fullmatch(name):
            raise ValueError(f"annotations: {name!r} is no name: letters, digits and _, not beginning with a digit")
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"annotations.{name}: {error}; a brace that is meant is written twice") from None
        for _, field, spec, conversion in parts:
            if field is not None and (field not in allowed or spec or conversion):
                told = ", ".join(f"{{{one}}}" for one in allowed)
                raise ValueError(f"annotations.{name}: {{{field}}} is no placeholder; allowed: {told}")


def _contradictions(rules: Rules, text: str) -> Iterator[str]:
    """What is wrong between parts of a file."""
    seen: set[str] = set()
    for table, index, one in _all(rules):
        if one.name in seen:
            yield _place(text, (table, index, "name"), one.name) + f"the name {one.name!r} comes twice"
        seen.add(one.name)
    before: dict[str, Rule] = {}
    for index, rule in enumerate(rules.rules):
        if rule.inhibited_by is not None and rule.inhibited_by not in before:
            allowed = ", ".join(sorted(before)) or "none"
            place = _place(text, ("rules", index, "inhibited_by"), rule.name)
            yield place + f"{rule.inhibited_by!r} is no rule above this one; allowed: {allowed}"
        elif rule.inhibited_by is not None and not set(before[rule.inhibited_by].group_by) <= set(rule.group_by):
            place = _place(text, ("rules", index, "group_by"), rule.name)
            yield place + f"must hold all labels that {rule.inhibited_by!r} groups by, which inhibits it"
        before[rule.name] = rule
    names = [one.name for one in rules.receivers]
    for index, receiver in enumerate(names):
        if receiver in names[:index]:
            yield _place(text, ("receivers", index, "name"), receiver) + f"the name {receiver!r} comes twice"
    for index, route in enumerate(rules.routes):
        for receiver in route.receivers:
            if receiver not in names:
                place = _place(text, ("routes", index, "receivers"), "")
                yield place + f"{receiver!r} is no receiver; allowed: {', '.join(names) or 'none'}"


def _all(rules: Rules) -> Iterator[tuple[str, int, Rule | Budget]]:
    for index, rule in enumerate(rules.rules):
        yield "rules", index, rule
    for index, budget in enumerate(rules.budgets):
        yield "budgets", index, budget


def _problem(loc: tuple[str | int, ...], error: Any, told: dict[str, Any], text: str) -> str:
    """One fault in a sentence, in the words of the file."""
    message = str(error["msg"]).removeprefix("Value error, ")
    match error["type"]:
        case "value_error" if (found := re.match(r"([a-z_]+(?:\.\w+)?): ", message)) and len(loc) == 2:
            loc = (*loc, found[1])
            message = message[found.end() :]
        case "missing":
            message = "is missing"
        case "extra_forbidden":
            message = f"there is no such field; allowed: {', '.join(_fields_beside(loc))}"
        case "literal_error":
            message = f"{error['input']!r} is none of: {error['ctx']['expected']}".replace("' or '", "', '")
        case "string_pattern_mismatch":
            message = f"{error['input']!r} must be lower-case letters, digits, - and _, 63 at most"
        case _ if isinstance(error.get("input"), str | int | float | bool):
            message = f"{message[0].lower()}{message[1:]}; got {error['input']!r}"
    name = ""
    if len(loc) > 1 and isinstance(loc[1], int):
        one = told[str(loc[0])][loc[1]]
        name = str(one.get("name", "")) if isinstance(one, dict) else ""
    return _place(text, loc, name) + message


def _fields_beside(loc: tuple[str | int, ...]) -> list[str]:
    models: dict[str, type[BaseModel]] = {
        "rules": Rule,
        "budgets": Budget,
        "receivers": ReceiverModel,
        "routes": Route,
    }
    model = models.get(str(loc[0]), Rules) if len(loc) > 1 else Rules
    return [field.alias or name for name, field in model.model_fields.items()]


def _place(text: str, loc: tuple[str | int, ...], name: str) -> str:
    """Where it is: the line, the table with its name, the field."""
    fields = [str(one) for one in loc if isinstance(one, str) and one != loc[0]]
    if len(loc) > 1 and isinstance(loc[1], int):
        table = f"{loc[0]}[{loc[1]}]" + (f" ({name})" if name else "")
    else:
        table, fields = "", [str(loc[0])]
    line = _line(text, loc)
    return f"line {line}: " + ", ".join(one for one in (table, ".".join(fields)) if one) + ": "


def _line(text: str, loc: tuple[str | int, ...]) -> int:
    """The line of a field, else of its table: `tomllib` does not tell."""
    index = loc[1] if len(loc) > 1 and isinstance(loc[1], int) else 0
    field = next((str(one).split(".")[0] for one in loc[1:] if isinstance(one, str)), None)
    header = re.compile(rf"\s*\[\[\s*{re.escape(str(loc[0]))}\s*\]\]")
    any_header = re.compile(r"\s*\[")
    found, count, inside = 1, -1, False
    quoted = False
    for number, line in enumerate(text.splitlines(), 1):
        if not quoted and any_header.match(line):
            here = header.match(line) is not None
            count += here
            inside = here and count == index
            nested = re.match(rf"\s*\[\s*{re.escape(str(loc[0]))}\.([A-Za-z0-9_-]+)\s*\]", line)
            if nested and count == index and nested[1] == field:
                return number
            if inside:
                found = number
        elif not quoted and inside and field and re.match(rf"\s*\"?{re.escape(field)}\"?\s*[.=]", line):
            return number
        elif not quoted and count < 0 and re.match(rf"\s*{re.escape(str(loc[0]))}\s*=", line):
            found = number
        if (line.count('"""') + line.count("'''")) % 2:
            quoted = not quoted
    return found
