"""The kinds of panels of our dashboards; each has a description, a unit, thresholds, and a text for no data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    DataSourceRef,
    GraphDrawStyle,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TableCellDisplayMode,
    TooltipDisplayMode,
    VisibilityMode,
)

from deploy.grafana.targets import POSTGRES, PROMETHEUS, Sql

Target = Sql | prometheus.Dataquery
PanelBuilder = Builder[model.Panel]
Steps = Sequence[tuple[float, str]]
"""From which value on a value has which colour."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """How one field is shown, where it is not as its panel says."""

    unit: str = ""
    steps: Steps = ()
    colours: Mapping[str, str] = field(default_factory=dict)
    """Of its values, which are texts."""

    def properties(self) -> list[model.DynamicConfigValue]:
        """The override that says so."""
        found = [model.DynamicConfigValue("unit", self.unit)] if self.unit else []
        if self.steps or self.colours:
            found.append(model.DynamicConfigValue("custom.cellOptions", {"type": TableCellDisplayMode.COLOR_TEXT}))
        if self.steps:
            found.append(model.DynamicConfigValue("thresholds", _thresholds("green", self.steps).build()))
        if self.colours:
            colours = {value: (value, colour) for value, colour in self.colours.items()}
            found.append(model.DynamicConfigValue("mappings", [_mapping(colours)]))
        return found


SEVERITIES: Final = Column(colours={"critical": "red", "warning": "orange", "info": "blue"})
STATES: Final = Column(colours={"firing": "red", "resolved": "green"})


@dataclass(frozen=True, kw_only=True)
class Said:
    """What every panel says of itself."""

    title: str
    description: str
    unit: str = "short"
    """A unit of Grafana: `short`, `s`, `ms`, `percentunit`, `cps`, ..."""
    none: str = "No data in this time"
    """What is shown where there is nothing."""
    steps: Steps = ()
    base: str = "green"
    """Colour of values below all steps."""
    width: int = 12
    """Of 24."""
    height: int = 8
    targets: Sequence[Target] = field(default_factory=list)


def stat_panel(said: Said, *, trend: bool = True, **fields: Column) -> PanelBuilder:
    """One figure, or some, coloured by the thresholds."""
    panel = (
        stat.Panel()
        .title(said.title)
        .description(said.description)
        .datasource(_source(said))
        .targets(list(said.targets))
        .unit(said.unit)
        .no_value(said.none)
        .thresholds(_thresholds(said.base, said.steps))
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.AREA if trend else BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    for name, column in fields.items():
        panel.override_by_name(name, column.properties())
    return panel.span(said.width).height(said.height)


def chart(said: Said, *, name: str = "", bars: bool = False, stacked: bool = False, interval: str = "") -> PanelBuilder:
    """Series over time; thresholds are dashed lines.

    Args:
        said: what it says of itself.
        name: of a series, such as `${__field.labels.model}`; Grafana makes one up unless it is given.
        bars: bars in place of lines.
        stacked: one series on the other.
        interval: the least time between points, such as `1m`.
    """
    panel = (
        timeseries.Panel()
        .title(said.title)
        .description(said.description)
        .datasource(_source(said))
        .targets(list(said.targets))
        .unit(said.unit)
        .no_value(said.none)
        .min(0)
        .thresholds(_thresholds(said.base, said.steps))
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .draw_style(GraphDrawStyle.BARS if bars else GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(80 if bars else 10)
        .show_points(VisibilityMode.NEVER)
        .span_nulls(False)
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if said.steps:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    if name:
        panel.display_name(name)
    if interval:
        panel.interval(interval)
    return panel.span(said.width).height(said.height)


def timeline(said: Said, states: Mapping[int, tuple[str, str]]) -> PanelBuilder:
    """States over time; `states` has text and colour of each value."""
    panel = (
        statetimeline.Panel()
        .title(said.title)
        .description(said.description)
        .datasource(_source(said))
        .targets(list(said.targets))
        .unit(said.unit)
        .no_value(said.none)
        .thresholds(_thresholds(said.base, said.steps))
        .mappings([_mapping({str(value): both for value, both in states.items()})])
        .show_value(VisibilityMode.NEVER)
        .merge_values(True)
    )
    return panel.span(said.width).height(said.height)


def rows(said: Said, **columns: Column) -> PanelBuilder:
    """A table."""
    panel = (
        table.Panel()
        .title(said.title)
        .description(said.description)
        .datasource(_source(said))
        .targets(list(said.targets))
        .unit(said.unit)
        .no_value(said.none)
        .thresholds(_thresholds(said.base, said.steps))
        .filterable(True)
    )
    for name, column in columns.items():
        panel.override_by_name(name, column.properties())
    return panel.span(said.width).height(said.height)


def _mapping(values: Mapping[str, tuple[str, str]]) -> model.ValueMap:
    return model.ValueMap(
        {
            value: model.ValueMappingResult(text=text, color=colour, index=index)
            for index, (value, (text, colour)) in enumerate(values.items())
        }
    )


def _thresholds(base: str, steps: Steps) -> dashboard.ThresholdsConfig:
    first = model.Threshold(value=None, color=base)
    return (
        dashboard.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([first, *(model.Threshold(value=value, color=colour) for value, colour in steps)])
    )


def _source(said: Said) -> DataSourceRef:
    return POSTGRES if isinstance(said.targets[0], Sql) else PROMETHEUS
