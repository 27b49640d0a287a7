"""Who is told of alerts, as a rules file says it: receivers and routes.

Secrets are not in the file: a field names the environment variable, or with `_FILE` behind its name the file, that
holds it. A receiver whose variable is not set is off.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Kind = Literal["alertmanager", "webhook", "slack", "pagerduty"]

_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ReceiverModel(_Model):
    """A receiver; `env` names the variable with its address (PagerDuty: its integration key)."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    type: Kind
    env: str
    url: str | None = None
    """PagerDuty: another address than that of its service regions in the US."""
    secret_env: str | None = None
    """Names the variable with the secret that signs (webhook): several, separated by spaces, while it is rotated."""
    allow_http: bool = False
    """Whether an address without TLS is taken that is not of this machine."""
    allow_private_redirects: bool = False
    """Whether a redirect to an address of a private network is followed."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for field, name in (("env", self.env), ("secret_env", self.secret_env)):
            if name is not None and not _VARIABLE.fullmatch(name):
                raise ValueError(f"{field}: must name an environment variable, such as SLATE_ALERT_WEBHOOK_URL")
        if self.url is not None and self.type != "pagerduty":
            raise ValueError("url: only for pagerduty; other addresses are secrets, and `env` names their variable")
        if self.secret_env is not None and self.type != "webhook":
            raise ValueError("secret_env: only a webhook is signed")
        return self


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Route(_Model):
    """Alerts that have all these labels (`*` stands for anything) go to these receivers."""

    match: dict[str, Annotated[list[str], BeforeValidator(_one_or_more), Field(min_length=1)]] = {}
    receivers: Annotated[list[str], Field(min_length=1)]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an alert with these labels takes it."""
        return all(
            any(fnmatchcase(labels.get(name, ""), pattern) for pattern in patterns)
            for name, patterns in self.match.items()
        )
