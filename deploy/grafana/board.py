"""What all dashboards have in common."""

from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as model

from deploy.grafana.panels import PanelBuilder
from deploy.grafana.targets import POSTGRES, Sql

TAG: Final = "slate"
Row = tuple[str, Sequence[PanelBuilder]]
Variable = Builder[model.VariableModel]


def board(
    uid: str,
    title: str,
    description: str,
    rows: Sequence[Row],
    *,
    since: str,
    refresh: str,
    variables: Sequence[Variable] = (),
) -> model.Dashboard:
    """A dashboard in UTC, with alerts as annotations and links to the others.

    Args:
        uid: its identity, and the name of its file.
        title: its title.
        description: what it is for.
        rows: its panels, under a heading each.
        since: the time that is shown at first, such as `now-1h`.
        refresh: how often it is drawn anew, such as `10s`.
        variables: what can be chosen at the top.
    """
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .timezone("utc")
        .time(since, "now")
        .refresh(refresh)
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .variables(list(variables))
        .annotations(
            [
                _annotation("Alerts that begin", "alert_begins.sql", "red"),
                _annotation("Alerts that end", "alert_ends.sql", "green"),
            ]
        )
        .link(
            dashboard.DashboardLink("SLATE")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .tooltip("The other dashboards, at the same time")
            .keep_time(True)
        )
        .readonly()
    )
    for heading, panels in rows:
        made.with_row(dashboard.Row(heading))
        for panel in panels:
            made.with_panel(panel)
    built = made.build()
    for number, part in enumerate(built.panels or [], 1):
        part.id_val = number
    return built


def choice(name: str, label: str, description: str, file: str) -> Variable:
    """A variable whose values a statement finds; several may be chosen, and all are at first."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(POSTGRES)
        .query(str(Sql(file).to_json()["rawSql"]))
        .refresh(model.VariableRefresh.ON_DASHBOARD_LOAD)
        .sort(model.VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
        .multi(True)
        .include_all(True)
        .current(_ALL)
    )


def fixed_choice(name: str, label: str, description: str, values: Sequence[str]) -> Variable:
    """A variable of known values; several may be chosen, and all are at first."""
    return (
        dashboard.CustomVariable(name)
        .label(label)
        .description(description)
        .values(",".join(values))
        .multi(True)
        .include_all(True)
        .current(_ALL)
    )


_ALL: Final = model.VariableOption(selected=True, text="All", value="$__all")


def _annotation(name: str, file: str, colour: str) -> dashboard.AnnotationQuery:
    return dashboard.AnnotationQuery().name(name).datasource(POSTGRES).enable(True).icon_color(colour).target(Sql(file))
