"""The published shapes of what receivers of alerts take, as strict models.

Alertmanager's webhooks: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config; PagerDuty:
https://developer.pagerduty.com/docs/send-alert-event; Slack: https://docs.slack.dev/reference/block-kit/blocks. What
Alertmanager's API takes, Alertmanager says (tests/acceptance/test_alertmanager.py).
"""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel

Labels = dict[Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")], Annotated[str, Field(min_length=1)]]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)


class WebhookAlert(_Shape):
    status: Literal["firing", "resolved"]
    labels: Labels
    annotations: dict[str, str]
    starts_at: AwareDatetime
    ends_at: AwareDatetime
    generator_url: Annotated[str, Field(alias="generatorURL")]
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class AlertmanagerWebhook(_Shape):
    version: Literal["4"]
    group_key: str
    truncated_alerts: int
    status: Literal["firing", "resolved"]
    receiver: str
    group_labels: Labels
    common_labels: Labels
    common_annotations: dict[str, str]
    external_url: Annotated[str, Field(alias="externalURL")]
    alerts: Annotated[list[WebhookAlert], Field(min_length=1)]


class _Snake(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PagerDutyPayload(_Snake):
    summary: Annotated[str, Field(min_length=1, max_length=1024)]
    source: Annotated[str, Field(min_length=1)]
    severity: Literal["critical", "error", "warning", "info"]
    timestamp: AwareDatetime
    component: str
    custom_details: dict[str, Any]


class PagerDutyLink(_Snake):
    href: str
    text: str


class PagerDutyEvent(_Snake):
    routing_key: Annotated[str, Field(min_length=32, max_length=32)]
    event_action: Literal["trigger", "acknowledge", "resolve"]
    dedup_key: Annotated[str, Field(max_length=255)]
    payload: PagerDutyPayload
    links: list[PagerDutyLink] = []


class SlackText(_Shape):
    type: Literal["mrkdwn"]
    text: Annotated[str, Field(min_length=1, max_length=3000)]


class SlackSection(_Shape):
    type: Literal["section"]
    text: SlackText


class SlackContext(_Shape):
    type: Literal["context"]
    elements: Annotated[list[SlackText], Field(min_length=1, max_length=10)]


class SlackMessage(_Shape):
    text: Annotated[str, Field(min_length=1, max_length=40_000)]
    blocks: Annotated[list[SlackSection | SlackContext], Field(max_length=50)]


SHAPES: dict[str, TypeAdapter[Any]] = {
    "webhook": TypeAdapter(AlertmanagerWebhook),
    "pagerduty": TypeAdapter(PagerDutyEvent),
    "slack": TypeAdapter(SlackMessage),
}
