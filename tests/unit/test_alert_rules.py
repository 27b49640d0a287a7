"""A rules file is right, or says where it is not and what would be."""

from pathlib import Path

import pytest

from connectors.errors import ConfigurationError
from connectors.settings import Settings
from connectors.webhooks import usable
from flows.alert_rules import Rules, load, parse
from flows.alerts import LiveRules

DEFAULT = Settings.model_fields["alert_rules"]
RULE = '[[rules]]\nname = "r"\nsignal = "call_error_rate"\nabove = 0.05\n'
BUDGET = '[[budgets]]\nname = "b"\ntokens = 5\nper = "user"\nperiod = "day"\n'
RECEIVER = '[[receivers]]\nname = "w"\ntype = "webhook"\nenv = "W"\n'


def test_the_rules_of_the_project_hold_the_thresholds_in_use() -> None:
    rules = load(Settings.load(local=False).alert_rules_file)
    by_name = {rule.name: rule for rule in rules.rules}
    warning, critical = by_name["function-errors"], by_name["function-errors-critical"]
    assert (warning.above, critical.above) == (0.05, 0.10)
    assert {(rule.window, rule.min_samples) for rule in (warning, critical)} == {(300, 20)}
    slow, very_slow = by_name["script-generation-slow"], by_name["script-generation-very-slow"]
    assert (slow.above, very_slow.above) == (3000, 5000)
    assert by_name["queue-depth"].above == 800
    assert by_name["preview-cache-misses"].above == 0.5
    assert by_name["build-timeouts"].above == 0.2
    assert by_name["publish-failures"].above == 0.05
    assert by_name["breaker-open"].where == {"type": ["circuit_breaker.opened"]}
    assert all(180 <= rule.cooldown <= 600 for rule in rules.rules)
    assert [level for level, _ in rules.budgets[0].levels] == [50, 80, 100]
    assert rules.receivers_of({"severity": "info"}) == ["alertmanager", "webhook", "slack"]
    assert "pagerduty" in rules.receivers_of({"severity": "critical"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[rules]\n", "Expected ']]'"),
        ("rules = " + "[" * 5000, "nested too deeply"),
        ("rules = " + "9" * 5000, "4300 digits"),
        ("[[rules]]\nname = 'r'\nabove = 1\n", "line 1: rules[0] (r), signal: is missing"),
        (
            RULE.replace("call_error_rate", "error_rat"),
            "line 3: rules[0] (r), signal: 'error_rat' is none of: 'calls', ",
        ),
        (RULE.replace('"r"', '"R r"'), "line 2: rules[0] (R r), name: 'R r' must be lower-case letters"),
        (RULE + "colour = 1\n", "line 5: rules[0] (r), colour: there is no such field; allowed: name, where, "),
        (RULE + 'window = "5 min"\n', "line 5: rules[0] (r), window: must be a duration such as"),
        (RULE + 'window = "3s"\n', "line 5: rules[0] (r), window: must be a multiple of 2 s"),
        (RULE + 'window = "9d"\n', "line 5: rules[0] (r), window: input should be less than or equal to 86400"),
        (RULE + "below = 1\n", "line 4: rules[0] (r), above: one of `above` and `below` is needed, and not both"),
        (RULE.replace("above", "clear"), "rules[0] (r), above: one of `above` and `below` is needed"),
        (RULE.replace("0.05", "nan"), "line 4: rules[0] (r), above: input should be a finite number; got nan"),
        (RULE.replace("0.05", "inf"), "above: input should be a finite number; got inf"),
        (RULE + "clear = nan\n", "clear: input should be a finite number; got nan"),
        (BUDGET.replace("tokens = 5", "cost = inf"), "cost: input should be a finite number; got inf"),
        (RULE + "clear = 0.2\n", "line 5: rules[0] (r), clear: must be below the threshold of 0.05, or equal it"),
        (RULE + 'group_by = ["user"]\n', "line 5: rules[0] (r), group_by: 'user' is no label of call_error_rate; "),
        (RULE + 'where.model = "m"\n', "line 5: rules[0] (r), where: 'model' is no label of call_error_rate"),
        (RULE + 'no_data = "fire"\ngroup_by = ["function"]\n', "line 5: rules[0] (r), no_data: `fire` is for rules"),
        (RULE + 'severity = "fatal"\n', "line 5: rules[0] (r), severity: 'fatal' is none of: 'info', "),
        (RULE + "min_samples = 0\n", "line 5: rules[0] (r), min_samples: input should be"),
        (RULE + "labels.__x = '1'\n", "line 5: rules[0] (r), labels: '__x' is no label"),
        (
            RULE + "labels.function = '1'\n",
            "line 5: rules[0] (r), labels: 'function' is a label that alerts have anyway",
        ),
        (
            RULE + "labels.severity = '1'\n",
            "line 5: rules[0] (r), labels: 'severity' is a label that alerts have anyway",
        ),
        (
            RULE + "annotations.summary = '{valu}'\n",
            "line 5: rules[0] (r), annotations.summary: {valu} is no placeholder; allowed: ",
        ),
        (RULE + "annotations.summary = '{value.__class__}'\n", "is no placeholder"),
        (RULE + "annotations.summary = '{value!r}'\n", "is no placeholder"),
        (RULE + "annotations.summary = '{'\n", "line 5: rules[0] (r), annotations.summary: "),
        (
            RULE + 'inhibited_by = "x"\n',
            "line 5: rules[0] (r), inhibited_by: 'x' is no rule above this one; allowed: none",
        ),
        (RULE + "\n" + RULE, "line 7: rules[1] (r), name: the name 'r' comes twice"),
        (
            RULE + '\n[[rules]]\nname = "s"\nsignal = "silence"\nabove = 1\n',
            "line 9: rules[1] (s), above: silence has no threshold",
        ),
        (BUDGET + "cost = 1.0\n", "line 3: budgets[0] (b), tokens: one of `tokens` and `cost` is needed, and not both"),
        (BUDGET.replace("user", "team"), "line 4: budgets[0] (b), per: 'team' is none of: 'user', "),
        (BUDGET + "at = [80, 50]\n", "line 6: budgets[0] (b), at: must be ascending"),
        (BUDGET + 'severities = ["info"]\n', "line 6: budgets[0] (b), severities: must be 3"),
        (RECEIVER.replace("webhook", "email"), "line 3: receivers[0] (w), type: 'email' is none of: 'alertmanager'"),
        (RECEIVER.replace('"W"', '"https://x"'), "line 4: receivers[0] (w), env: must name an environment variable"),
        (RECEIVER + '[[routes]]\nreceivers = ["x"]\n', "line 6: routes[0], receivers: 'x' is no receiver; allowed: w"),
        ("[rule]\nname = 1\n", "rule: there is no such field; allowed: rules, budgets, receivers, routes"),
        (
            '[[rules]]\nname = "a"\nannotations.text = """\n[[rules]]\nname = 1\n"""\nsignal = "x"\nabove = 1\n',
            "line 7: rules[0] (a), signal",
        ),
    ],
)
def test_a_fault_is_named_with_its_line_its_field_and_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        parse(text, "alerts.toml")
    assert message in str(error.value)
    assert str(error.value).startswith("alerts.toml: ")


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as error:
        parse(RULE + "x = 1\ny = 2\n" + BUDGET + "z = 3\n", "alerts.toml")
    assert len(str(error.value).splitlines()) == 3


def test_a_file_that_is_not_there_is_named_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="SLATE_ALERT_RULES"):
        load(tmp_path / "missing.toml")


def test_alerts_that_no_route_is_for_go_to_all_receivers() -> None:
    other = RECEIVER.replace('"w"', '"v"')
    route = '[[routes]]\nmatch = { severity = "critical", function = "gen*" }\nreceivers = ["v"]\n'
    rules = parse(RULE + RECEIVER + other + route, "x")
    assert rules.receivers_of({"severity": "critical", "function": "generate"}) == ["v"]
    assert rules.receivers_of({"severity": "critical", "function": "apply"}) == ["w", "v"]


def configured(tmp_path: Path, text: str) -> Settings:
    (tmp_path / "rules.toml").write_text(text)
    return Settings.load(local=False, alert_rules=tmp_path / "rules.toml", dir=tmp_path)


def test_a_change_of_the_file_is_taken_over_and_a_wrong_one_is_not(tmp_path: Path) -> None:
    settings = configured(tmp_path, RULE)
    live = LiveRules(settings)
    assert not live.reload()
    (tmp_path / "rules.toml").write_text(RULE + "colour = 1\n")
    assert not live.reload()
    assert live.current.rules[0].above == 0.05
    (tmp_path / "rules.toml").write_text(RULE.replace("0.05", "0.50"))
    assert live.reload()
    assert live.current.rules[0].above == 0.5


def test_receivers_are_on_when_their_variable_or_its_file_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = RECEIVER + RECEIVER.replace('"w"', '"v"').replace('"W"', '"V"')
    settings = configured(tmp_path, RULE + text)
    rules = load(settings.alert_rules_file)
    assert usable(settings, rules.receivers) == []
    (tmp_path / "url").write_text("https://example.com/hook\n")
    monkeypatch.setenv("V_FILE", str(tmp_path / "url"))
    (receiver,) = usable(settings, rules.receivers)
    assert (receiver.name, receiver.url) == ("v", "https://example.com/hook")
    assert LiveRules(settings).receivers_of({}) == ["v"]


@pytest.mark.parametrize(
    "url", ["http://example.com/x?token=hunter2", "ftp://hunter2@x", "hunter2", "https://[hunter2"]
)
def test_an_address_that_is_not_usable_is_refused_without_being_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    settings = configured(tmp_path, RULE + RECEIVER)
    monkeypatch.setenv("W", url)
    with pytest.raises(ConfigurationError, match="receiver w: W ") as error:
        usable(settings, load(settings.alert_rules_file).receivers)
    assert "hunter2" not in str(error.value)


def test_a_secret_that_is_not_usable_is_refused_without_being_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configured(tmp_path, RULE + RECEIVER + 'secret_env = "S"\n')
    monkeypatch.setenv("W", "https://example.com/")
    monkeypatch.setenv("S", "whsec_hunter2!")
    with pytest.raises(ConfigurationError, match="receiver w: S must be base64") as error:
        usable(settings, load(settings.alert_rules_file).receivers)
    assert "hunter2" not in str(error.value)


def test_an_empty_file_has_no_rules() -> None:
    assert parse("", "x") == Rules()
