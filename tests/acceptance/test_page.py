"""The live page in a real Chromium, with the service, the workers and the servers behind it."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from selenium.webdriver import Keys

from deploy.standins import EditorStandIn, studio
from deploy.unity_mcp import install
from tests.support.api import CODE, PROMPT, SESSION, Api, Site, running
from tests.support.browser import Browser, chromium, page_packages
from tests.support.sessions import token
from tests.support.stack import Stack
from tests.support.waiting import eventually

ADMIN = ("spark:read", "spark:generate", "spark:admin")

_TODAY = "(now() AT TIME ZONE 'UTC')::date"
_FIGURES = f"""
    SELECT
        (SELECT sum(tokens_prompt + tokens_completion) FROM spark_usage WHERE (ts AT TIME ZONE 'UTC')::date = {_TODAY}),
        (SELECT round(sum(cost_estimate), 4) FROM spark_usage WHERE (ts AT TIME ZONE 'UTC')::date = {_TODAY}),
        (SELECT round(100.0 * count(*) FILTER (WHERE status = 'failed') / count(*), 2) FROM spark_function_calls
            WHERE (ts AT TIME ZONE 'UTC')::date = {_TODAY}),
        (SELECT round(count(*) / 5.0, 1) FROM spark_function_calls WHERE ts < date_trunc('minute', now())
            AND ts >= date_trunc('minute', now()) - interval '5 minutes'),
        (SELECT count(*) FROM spark_sessions WHERE ended_at IS NULL AND started_at IS NOT NULL),
        (SELECT count(*) FROM slate.alert_states WHERE status = 'firing'),
        (SELECT count(*) FROM slate.dead_letters WHERE replayed_at IS NULL),
        0
"""
"""Of the tables themselves, not of the totals that the service reads."""
_CARDS = ("Tokens", "Cost", "Error rate", "Calls per minute", "Active sessions", "Alerts firing", "Dead letters", "Lag")
_LATENCIES = """
    SELECT array_agg(sorted[1 + floor(share * (cardinality(sorted) - 1))::integer] ORDER BY share)
    FROM unnest(ARRAY[0.5, 0.95, 0.99]) AS share, (
        SELECT array_agg(duration_ms ORDER BY duration_ms) AS sorted
        FROM spark_function_calls WHERE ts > now() - interval '1 hour' AND duration_ms IS NOT NULL
    ) AS calls
"""
_ALERT = """
    INSERT INTO slate.alert_states (stream, rule, fingerprint, labels, status, since, starts_at, value, samples, reason)
    VALUES (%s, 'preview_errors', 'f', '{"severity": "critical", "engine": "unity"}', 'firing', now(), now(), 0.5, 20,
        '50 %% is above 5 %% (20 samples)')
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    page_packages()
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def site(browser: Browser, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    stack.forget_caches()
    with running(stack, tmp_path_factory.mktemp("site")) as site:
        yield site


def sign_in(browser: Browser, site: Site, where: str = "#/", **options: Any) -> None:
    """Open the page as an administrator."""
    browser.open(f"{site.api.url}/#token={token(permissions=ADMIN)}", **options)
    browser.find(".cards")
    if where != "#/":
        browser.run(f"location.hash = {json.dumps(where)}")
    browser.says("Live", "#connection")
    if where == "#/":
        eventually(lambda: number(browser, "Tokens") > 0, what="the first figures")


def number(browser: Browser, card: str) -> float:
    """The figure of a card, seconds as milliseconds."""
    text = browser.text(f"[data-card='{card}'] .figure")
    found = float(re.sub(r"[^0-9.]", "", text) or "nan")
    return found * 1000 if text.endswith(" sec") else found


def test_nobody_is_told_which_server_it_is(site: Site) -> None:
    assert "server" not in httpx.get(site.api.url).headers


def test_the_figures_equal_sql(browser: Browser, site: Site) -> None:
    sign_in(browser, site)

    def same() -> bool:
        expected = [float(one or 0) for one in site.one(_FIGURES)]
        found = [number(browser, card) for card in _CARDS]
        assert found == expected, dict(zip(_CARDS, zip(found, expected, strict=True), strict=True))
        return True

    eventually(same, 10, what="the cards and the tables agree")
    assert number(browser, "Tokens") > 1000
    assert number(browser, "Active sessions") > 1
    assert number(browser, "Dead letters") > 0
    for percentile, exact in zip(("p50", "p95", "p99"), site.one(_LATENCIES)[0], strict=True):
        assert number(browser, f"Latency {percentile}") == pytest.approx(exact, rel=0.015)  # histograms, rounded
    eventually(lambda: len(browser.all(".charts canvas")) == 3, what="three charts")
    assert "Calls" in browser.run("return document.querySelector('.charts [role=img]').ariaLabel")
    assert browser.console() == []


def test_the_table_of_minutes_equals_sql(browser: Browser, site: Site) -> None:
    sign_in(browser, site)
    browser.find(".charts canvas")
    browser.click(".minutes summary")
    expected = site.one(
        "SELECT count(*) FROM spark_function_calls WHERE ts >= date_trunc('minute', now()) - interval '29 minutes'"
    )[0]

    def calls() -> int:
        cells = browser.run("return [...document.querySelectorAll('.minutes tbody tr')].map(r=>r.cells[1].innerText)")
        return sum(int(cell.replace(",", "")) for cell in cells)

    eventually(lambda: calls() == expected, what=f"{expected} calls in the table")


def test_sessions_come_page_by_page_with_those_that_are_active_first(browser: Browser, site: Site) -> None:
    site.database.execute(
        "INSERT INTO spark_sessions (id, session_id, model, mode, started_at, ended_at)"
        " SELECT gen_random_uuid(), 'old-' || n, 'm', 'hybrid', now() - n * '1 day'::interval, now()"
        " FROM generate_series(1, 60) AS n"
    )
    sign_in(browser, site)
    rows = "return document.querySelectorAll('.sessions tbody:not(.active) tr').length"
    more = ".sessions + button"
    browser.find("tr[data-session='old-1']")
    total, active = site.one(
        "SELECT count(*), count(*) FILTER (WHERE ended_at IS NULL) FROM spark_sessions WHERE started_at IS NOT NULL"
    )
    pages = 0
    while browser.run(f"return !document.querySelector('{more}').hidden"):
        before = browser.run(rows)
        browser.click(more)
        eventually(lambda before=before: browser.run(rows) > before, what="another page")  # type: ignore[misc]
        pages += 1
    assert pages > 1
    assert len(browser.all("tbody.active tr")) == active
    assert browser.run(rows) == total - active


def test_a_new_event_appears_within_five_seconds(browser: Browser, site: Site) -> None:
    sign_in(browser, site)
    browser.find("tr[data-session]")
    before = number(browser, "Tokens")
    site.publish(("spark.usage", {"model": "gpt-realtime", "tokensPrompt": 40_000, "tokensCompletion": 2_000}))
    eventually(lambda: number(browser, "Tokens") == before + 42_000, 5, what="the tokens are on the page")
    browser.run(f"location.hash = '#/sessions/{SESSION}'")
    browser.find("li[data-kind='call']")
    call = {"callId": f"c{time.time_ns()}", "name": "manage_asset", "status": "success", "durationMs": 5}
    site.publish(("spark.function_call", call))
    browser.says("manage_asset", ".timeline", 5)
    site.publish(("spark.delta", {"type": "delta", "delta": {"text": "And now it is done."}}))
    browser.says("And now it is done.", ".timeline", 5)
    site.publish(("spark.build.unity.completed", {"type": "build_completed", "jobId": "job-7"}))
    browser.says("completed", "[data-kind='build'] .badge", 5)
    assert browser.console() == []


def test_a_session_tells_its_story(browser: Browser, site: Site) -> None:
    sign_in(browser, site)
    browser.click(f"tr[data-session='{SESSION}'] a")
    browser.says("Live", "#connection")
    all_kinds = {"event", "call", "script", "preview", "build", "usage"}

    def shown() -> bool:
        return {one.get_attribute("data-kind") for one in browser.all(".timeline li")} == all_kinds

    eventually(shown, what="a line of each kind")
    for words in ("I write a script.", "hunk 2 fails", "took 1.24 sec", PROMPT, "job job-7", "$0.0123"):
        assert words in browser.text(".timeline"), words
    assert browser.text("[data-card='Calls'] .figure").isdigit()
    failed = browser.find("li[data-kind='call'] .badge[data-tone='bad']")
    assert failed.text == "failed"
    browser.run("document.querySelector('.frame').scrollIntoView()")
    picture = browser.find("li[data-kind='preview'] img")
    eventually(lambda: picture.get_property("naturalWidth") == 96, what="the picture is shown")
    assert len(browser.all(".timeline img")) == 1, "text has become markup"

    browser.click(".script summary")
    keywords = eventually(lambda: browser.text(".hljs-keyword"), what="the code is coloured")
    assert {"using", "public", "class"} <= set(keywords.split())
    assert browser.run("return document.querySelector('.code code').textContent") == CODE
    browser.find(".script summary").send_keys(Keys.ESCAPE)
    assert browser.find(".script").get_attribute("open") is None

    browser.click(".filter label")
    assert not browser.all(".timeline li[data-kind='call'] .title")[0].is_displayed()
    browser.driver.back()
    browser.says("Today", "h1")
    assert browser.console() == []


def test_an_alert_appears_and_goes_when_it_is_over(browser: Browser, site: Site) -> None:
    sign_in(browser, site)
    before = number(browser, "Alerts firing")
    site.database.execute(_ALERT.encode(), (site.settings.stream,))
    try:
        browser.says("50 % is above 5 % (20 samples)", ".alerts", 5)
        assert "critical" in browser.text(".alerts [data-rule='preview_errors']")
        assert number(browser, "Alerts firing") == before + 1
        assert browser.text("#announcer") == "Alert: preview_errors"
    finally:
        site.database.execute("DELETE FROM slate.alert_states WHERE rule = 'preview_errors'")
    eventually(lambda: not browser.all("[data-rule='preview_errors']"), 5, what="the alert is gone")
    assert browser.text("#announcer") == "Resolved: preview_errors"
    assert browser.console() == []


def test_a_token_that_is_not_good_brings_the_sign_in_back(browser: Browser, site: Site) -> None:
    browser.open(site.api.url)
    for bad, why in (
        ("two words", "That is not a token."),
        (token(exp=int(time.time()) - 3600), "the token has expired"),
        (token(permissions=()), "spark:read"),
    ):
        browser.find("#token").send_keys(bad, Keys.ENTER)
        browser.says(why, ".trouble")
    assert browser.text("#connection") == "Signed out"
    browser.find("#token").send_keys(token(permissions=("spark:read",)), Keys.ENTER)
    browser.says("Live", "#connection")
    browser.says("Figures by minute are for administrators.")
    assert browser.text("#who").startswith("User ")
    assert not browser.all("[data-card='Dead letters']")[0].is_displayed()
    browser.driver.refresh()
    browser.says("Live", "#connection")
    browser.click("#sign-out")
    browser.find("#token")
    browser.driver.refresh()
    browser.find("#token")


def test_a_token_in_the_address_does_not_stay_there(browser: Browser, site: Site) -> None:
    sign_in(browser, site)
    assert browser.run("return location.href") == f"{site.api.url}/#/"
    assert browser.run("return Object.keys(localStorage).length") == 0


def test_the_page_says_when_the_service_is_away_and_comes_back(browser: Browser, site: Site) -> None:
    sign_in(browser, site)
    browser.find("tr[data-session]")
    site.api.kill()
    try:
        browser.says("Reconnecting…", "#connection")
    finally:
        site.api.start()
    browser.says("Live", "#connection", 20)


def test_without_its_packages_the_page_says_so_and_works(browser: Browser, site: Site) -> None:
    browser.block("*/vendor/*")
    try:
        sign_in(browser, site)
        browser.says("There are no charts")
        assert number(browser, "Tokens") > 0
        browser.run(f"location.hash = '#/sessions/{SESSION}'")
        browser.click(".script summary")
        browser.says("Without colours", ".script")
        assert browser.run("return document.querySelector('.code code').textContent") == CODE
    finally:
        browser.block()


def test_a_keyboard_is_enough_from_the_sign_in_to_a_session(browser: Browser, site: Site) -> None:
    browser.open(site.api.url)
    browser.find("#token")
    browser.press(token(permissions=ADMIN), Keys.ENTER)
    browser.find("tr[data-session] a")

    def tab_to(wanted: str, most: int = 60) -> None:
        for _ in range(most):
            browser.press(Keys.TAB)
            if browser.run(f"return document.activeElement.matches({json.dumps(wanted)})"):
                outline = browser.run("return getComputedStyle(document.activeElement).outlineStyle")
                assert outline == "solid", "where the focus is cannot be seen"
                return
        raise AssertionError(f"{wanted} cannot be reached")

    tab_to("th a")
    browser.press(Keys.ENTER)
    browser.says("Session ", "h1")
    browser.run(f"location.hash = '#/sessions/{SESSION}'")
    browser.find(".script summary")
    tab_to(".script summary")
    browser.press(Keys.ENTER)
    browser.find(".code")
    tab_to(".skip")
    browser.press(Keys.ENTER)
    assert browser.run("return document.activeElement.id") == "main"
    assert browser.run("return location.hash") == f"#/sessions/{SESSION}"


def _open_script(browser: Browser) -> None:
    browser.click(".script summary")
    browser.find(".code")


VIEWS: dict[str, Callable[[Browser], object]] = {
    "sign-in": lambda browser: browser.find("#token"),
    "overview": lambda browser: (browser.find(".charts canvas"), browser.find("tr[data-session]")),
    "session": _open_script,
}


@pytest.mark.parametrize(
    ("look", "dark", "width"), [("dark", True, 1280), ("light", False, 1280), ("phone", True, 360)]
)
def test_everybody_can_use_it(browser: Browser, site: Site, tmp_path: Path, look: str, dark: bool, width: int) -> None:
    site.database.execute(_ALERT.encode(), (site.settings.stream,))
    try:
        for view, ready in VIEWS.items():
            if view == "sign-in":
                browser.open(site.api.url, dark=dark, width=width)
            else:
                where = "#/" if view == "overview" else f"#/sessions/{SESSION}"
                sign_in(browser, site, where, dark=dark, width=width)
            ready(browser)
            browser.picture(tmp_path / f"{view}-{look}.png")
            assert browser.faults() == [], view
            assert browser.overflow() <= 0, view
            assert browser.console() == [], view
    finally:
        site.database.execute("DELETE FROM slate.alert_states WHERE rule = 'preview_errors'")


def test_the_switch_overrules_the_system_and_is_remembered(browser: Browser, site: Site) -> None:
    browser.open(site.api.url, dark=False)
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(ground)
    browser.click("#theme")
    dark = browser.run(ground)
    assert dark != light
    assert browser.find("#theme").get_attribute("aria-pressed") == "true"
    browser.driver.refresh()
    browser.find("#token")
    assert browser.run(ground) == dark


def test_a_session_can_be_begun_and_spoken_with(browser: Browser, site: Site, tmp_path: Path) -> None:
    install()
    standins = studio(tmp_path, lambda name: tmp_path / f"{name}.log")
    for one in standins:
        one.start()
    try:
        editors = next(one for one in standins if isinstance(one, EditorStandIn))
        environment = standins[0].environment() | standins[1].environment()
        more = {
            "openai_url": environment["SLATE_OPENAI_URL"],
            "openai_key": SecretStr(environment["OPENAI_REALTIME_API_KEY"]),
            "unity_mcp_url": environment["UNITY_MCP_URL"],
            "unity_instance": editors.instances[0],
            "spill_dir": tmp_path / "spill",
        }
        with Api(site.settings.model_copy(update=more), tmp_path) as api:
            browser.open(f"{api.url}/#token={token(permissions=ADMIN)}", dark=True)
            browser.click(".heading button.primary")
            browser.find("dialog #mode").send_keys("creative")
            browser.click("dialog button.primary")
            browser.find("#input").send_keys("Create a Unity player controller", Keys.ENTER)
            browser.find(".log .answer")
            browser.find(".log .call .badge[data-tone='good']")
            eventually(lambda: not browser.find("form button:nth-of-type(2)").is_enabled(), what="the turn is over")
            browser.says("script", ".timeline")
            browser.picture(tmp_path / "conversation.png")
            assert browser.faults() == []
            browser.click("form .actions button:last-child")
            browser.says("The session is over.", ".log")
    finally:
        for one in reversed(standins):
            one.stop()
