"""Grafana as code: `python -m deploy.grafana` writes the dashboards and the alert rules that Grafana reads.

Statements are in `sql/grafana`, as Grafana takes them. The files written are kept, for Grafana needs no Python to read
them.
"""

import warnings

with warnings.catch_warnings():
    # It advises the second version of dashboards, which other tools than the newest Grafana do not read.
    warnings.simplefilter("ignore", DeprecationWarning)
    import grafana_foundation_sdk.builders.dashboard
    import grafana_foundation_sdk.builders.prometheus  # noqa: F401
