"""The data sources, and what panels ask them."""

from dataclasses import dataclass
from typing import Final, Literal

from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import prometheus as prometheus_model
from grafana_foundation_sdk.models.common import DataSourceRef

from connectors.sql import read

POSTGRES: Final = DataSourceRef(type_val="grafana-postgresql-datasource", uid="slate-postgres")
PROMETHEUS: Final = DataSourceRef(type_val="prometheus", uid="slate-prometheus")
"""Named by the uids of `provisioning/datasources/slate.yaml`."""


@dataclass(frozen=True)
class Sql(Builder[Dataquery], Dataquery):
    """A statement of `sql/grafana` for PostgreSQL; the foundation SDK has no builder for that data source.

    As a time series it has a column `time`, in whose order it is sorted; columns of text become labels.
    """

    file: str
    """Below `sql/grafana`."""
    format: Literal["table", "time_series"] = "table"
    ref: str = "A"
    """Name of the query in its panel."""

    def build(self) -> Dataquery:
        """Itself."""
        return self

    def to_json(self) -> dict[str, object]:
        """The target as the plugin reads it."""
        return {
            "refId": self.ref,
            "datasource": POSTGRES,
            "format": self.format,
            "rawQuery": True,
            "editorMode": "code",
            "rawSql": read(f"grafana/{self.file}").rstrip("\n"),
        }


def series(file: str, ref: str = "A") -> Sql:
    """A statement that gives time series."""
    return Sql(file, "time_series", ref)


def prom(expr: str, legend: str = "__auto", ref: str = "A", *, instant: bool = False) -> prometheus.Dataquery:
    """A PromQL expression over the time that is shown, or of now; `legend` may name labels, `{{partition}}`."""
    query = prometheus.Dataquery().ref_id(ref).datasource(PROMETHEUS).expr(expr).legend_format(legend)
    query = query.editor_mode(prometheus_model.QueryEditorMode.CODE)
    return query.instant() if instant else query.range()


def quantiles(histogram: str) -> list[prometheus.Dataquery]:
    """The median and the 99th percentile of a histogram."""
    return [
        prom(f"histogram_quantile({share}, sum by (le) (rate({histogram}_bucket[$__rate_interval])))", name, ref)
        for share, name, ref in ((0.5, "p50", "A"), (0.99, "p99", "B"))
    ]
