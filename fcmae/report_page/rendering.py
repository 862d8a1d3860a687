"""Renders a page as one HTML file: a template with style, script, data and pictures inlined.

The file makes no network requests, and its Content-Security-Policy blocks them.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

import fcmae
from fcmae.errors import UserError
from fcmae.files import replacing
from fcmae.report_page.charts import Chart

GENERATOR = '<meta name="generator" content="fcmae '  # identifies a file as a page of fcmae


def rendered(template: str, origin: str, charts: Sequence[Chart], **values: Any) -> str:
    """The complete page. Everything in ``values`` (paths, settings, names) is escaped.

    Args:
        template: name of a file in this folder.
        origin: what the page is about; the footer names it.
        charts: those that the template shows.
        values: what else the template names.
    """
    script = _asset("chart.js") + _asset("report.js")
    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["breakable"] = breakable
    return environment.get_template(template).render(
        **values,
        origin=origin,
        chart_data={chart.id: chart.data for chart in charts},
        version=fcmae.__version__,
        now=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        css=Markup(_asset("report.css")),  # the CSS and the script are our own: not escaped
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )


def breakable(text: str) -> Markup:
    """Insert line-break opportunities for narrow screens: after / and _, and after a dot outside a number."""
    return Markup("<wbr>").join(re.split(r"(?<=[/_])|(?<=\.)(?!(?<=\d\.)\d)", text))


def write_page(file: Path, page: str) -> None:
    """Write a page in one go: a browser that reloads sees the old or the new one."""
    with replacing(file) as temporary:
        temporary.write_bytes(page.encode("utf-8", errors="replace"))  # a path may hold bytes that are not valid text


def check_replaceable(file: Path, example: str = "report.html") -> None:
    """UserError if ``file`` is a folder, or a file that is not a page of fcmae."""
    if file.is_dir():
        raise UserError(f"--output {file} is a folder; give a file, such as {file / example}")
    if not file.exists():
        return
    with file.open("rb") as opened:
        if GENERATOR.encode() not in opened.read(1024):
            raise UserError(f"{file} exists and is not an fcmae report; give another --output, or move the file")


def _asset(name: str) -> str:
    return (files("fcmae.report_page") / name).read_text(encoding="utf-8")
