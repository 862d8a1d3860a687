"""Renders the report as one HTML file: the report.html template with style, script, data and pictures inlined.

The file makes no network requests, and its Content-Security-Policy blocks them.
"""

import base64
import hashlib
import re
from datetime import UTC, datetime
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

import fcmae
from fcmae.analysis.collapse_file import read_depth_curves
from fcmae.analysis.evaluation_file import read_evaluation
from fcmae.report_page.charts import (
    depth_chart,
    knn_chart,
    loss_chart,
    rate_charts,
    stage_distance_chart,
    validation_chart,
)
from fcmae.report_page.facts import changed_settings, headline_facts, is_finetuning
from fcmae.report_page.pictures import embed_pictures
from fcmae.report_page.validation import read_validation
from fcmae.runs.reader import RunFolder

GENERATOR = '<meta name="generator" content="fcmae '  # identifies a file as a report of fcmae


def render_report(run: RunFolder) -> str:
    """The complete page. Everything that comes from the run (paths, settings, names) is escaped."""
    script = _asset("chart.js") + _asset("report.js")
    loss, rates = loss_chart(run), rate_charts(run)
    stages, depth, knn = stage_distance_chart(run), depth_chart(read_depth_curves(run.path)), knn_chart(run)
    validated, evaluation = validation_chart(run), read_evaluation(run.path)
    charts = [chart for chart in (loss, validated, *rates, stages, depth, knn) if chart is not None]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["breakable"] = _breakable
    return environment.from_string(_asset("report.html")).render(
        run=run,
        name=run.path.resolve().name,
        path=str(run.path.resolve()),
        facts=headline_facts(run),
        loss=loss,
        rates=rates,
        is_finetuning=is_finetuning(run),
        validated=validated,
        validation=read_validation(run.path),
        stages=stages,
        depth=depth,
        knn=knn,
        evaluation=evaluation,
        # a fine-tuned run's are seldom measured: no section that only says so
        has_features=not is_finetuning(run) or any((stages, depth, knn, evaluation)),
        chart_data={chart.id: chart.data for chart in charts},
        pictures=embed_pictures(run.pictures),
        epochs_per_step=run.stream and run.stream.effective_batch / run.stream.samples_per_epoch,
        settings=changed_settings(run),
        version=fcmae.__version__,
        now=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        css=Markup(_asset("report.css")),  # the CSS and the script are our own: not escaped
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )


def _breakable(text: str) -> Markup:
    """Insert line-break opportunities for narrow screens: after / and _, and after a dot outside a number."""
    return Markup("<wbr>").join(re.split(r"(?<=[/_])|(?<=\.)(?!(?<=\d\.)\d)", text))


def _asset(name: str) -> str:
    return (files("fcmae.report_page") / name).read_text(encoding="utf-8")
