"""Where windows may be sent, and with which secret."""

import pytest

from connectors.errors import ConfigurationError
from connectors.settings import Settings


@pytest.mark.parametrize(
    "url", ["https://example.com/x", "https://u:p@example.com", "http://localhost:8000/x", "http://[::1]/"]
)
def test_https_is_taken_and_http_to_this_machine(url: str) -> None:
    settings = Settings.load(analytics_url=url)
    assert settings.analytics_url is not None
    assert settings.analytics_url.get_secret_value() == url
    assert url not in repr(settings)


@pytest.mark.parametrize("url", ["http://u:hunter2@example.com/", "ftp://example.com", "example.com", "https://"])
def test_any_other_address_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="SLATE_ANALYTICS_URL: Value error, must be https://") as caught:
        Settings.load(analytics_url=url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("secret", ["", "short", "whsec_", "whsec_c2hvcnQ=", "not base64 at all!!"])
def test_a_secret_that_is_none_is_refused(secret: str) -> None:
    with pytest.raises(ConfigurationError, match=r"SLATE_ANALYTICS_SECRET.*openssl rand"):
        Settings.load(analytics_secret=secret)


@pytest.mark.parametrize("secret", ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS4+w"])
def test_a_secret_may_have_its_prefix_and_its_padding_or_not(secret: str) -> None:
    assert Settings.load(analytics_secret=secret).analytics_secret is not None
