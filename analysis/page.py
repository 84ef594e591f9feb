"""One HTML file that needs nothing else: escaped text, tables, Plotly figures, and a page around them.

Every text that comes from data goes through `escaped`, `drawn` or JSON inside the page; only `Html` is taken as it is.
"""

import base64
import gzip
import html
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from plotly.offline import get_plotlyjs

from analysis.figure import CYCLE, GREY

TEMPLATE = Path(__file__).with_name("page.html")
FIGURE_WIDTH = 700  # px; an A4 page is 718 px wide inside its margins, so a figure that fits the screen fits the paper
HEIGHT = 380  # px of a figure that does not say otherwise


class Html(str):
    """Text that is markup already."""


class Section(NamedTuple):
    """One part of the page."""

    anchor: str  # of its link
    title: str
    body: Html


class Column(NamedTuple):
    """A column of a `sortable` table."""

    title: str
    digits: int | None = None  # of a number; None: text
    detail: bool = False  # shown on request only: a table of forty columns cannot be read


def escaped(value: Any) -> Html:
    """A value as text of the page; a dash where there is none."""
    if isinstance(value, Html):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Html("–")
    return Html(html.escape(str(value)))


def drawn(value: Any) -> str:
    """A value as text of a figure: Plotly reads a little markup in labels."""
    return html.escape(str(value), quote=False)


def number(value: float | None, digits: int = 3) -> str:
    """`0.912`, a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def paragraph(*sentences: Any, kind: str = "") -> Html:
    return Html(f"<p{_class(kind)}>{' '.join(map(escaped, sentences))}</p>")


def sentence(words: str) -> str:
    """Words with a capital and a full stop."""
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


def bold(value: Any) -> Html:
    return Html(f"<b>{escaped(value)}</b>")


def heading(text: str) -> Html:
    return Html(f"<h3>{escaped(text)}</h3>")


def bullets(items: Iterable[Any]) -> Html:
    return Html("<ul>" + "".join(f"<li>{escaped(item)}</li>" for item in items) + "</ul>")


def joined(*parts: Html) -> Html:
    return Html("\n".join(parts))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "", *, texts: int = 1) -> Html:
    """A table whose first `texts` columns are text, on the left; the rest numbers, on the right."""

    def cells(row: Sequence[Any], tag: str) -> str:
        return "".join(f"<{tag}{_class('' if place < texts else 'number')}>{escaped(cell)}</{tag}>" for place, cell in enumerate(row))

    head = f"<caption>{escaped(caption)}</caption>" if caption else ""
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return Html(f'<div class="wide"><table>{head}<thead><tr>{cells(columns, "th")}</tr></thead><tbody>{body}</tbody></table></div>')


def pairs(rows: Iterable[Sequence[Any]]) -> Html:
    """Names and their values, as many side by side as fit."""
    return Html(
        '<dl class="pairs">' + "".join(f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in rows) + "</dl>"
    )


def sortable(name: str, columns: Sequence[Column], rows: Sequence[Sequence[Any]], caption: str, choice: str = "") -> Html:
    """A table that the page's script draws from one JSON, sorts, and filters by text and by the values of the column `choice`.

    A thousand rows stay quick so: the browser lays out those that are looked at, and all of them on paper.
    """
    content = {"columns": [column._asdict() for column in columns], "rows": rows, "choice": choice}
    return Html(
        f'<div class="sortable" id="{escaped(name)}"><p class="caption">{escaped(caption)}</p>{_json(content)}'
        "<noscript>This table needs JavaScript; its rows stand in the study's results folder as CSV.</noscript></div>"
    )


def figure(title: str, traces: list[dict[str, Any]], layout: dict[str, Any], words: Any) -> Html:
    """A Plotly figure; `words` say what it shows to whoever cannot see it, and to whoever can."""
    styled = style(layout)
    content, height = {"data": traces, "layout": styled}, styled["height"]
    return Html(
        f'<figure><div class="plot" role="img" aria-label="{escaped(title)}: {html.escape(plain(words))}" style="min-height:{height}px"></div>'
        f"{_json(content)}<figcaption><b>{escaped(title)}.</b> {escaped(words)}</figcaption></figure>"
    )


def plain(value: Any) -> str:
    """The text of markup that `escaped` and `bold` made."""
    return html.unescape(str(value).replace("<b>", "").replace("</b>", "")) if isinstance(value, Html) else str(value)


def error_bars(value: Sequence[float | None], low: Sequence[float | None], high: Sequence[float | None]) -> dict[str, Any]:
    """Plotly's error bars of intervals; none where an end is not known."""

    def gap(upper: float | None, lower: float | None) -> float:
        return 0.0 if upper is None or lower is None else max(0.0, upper - lower)

    above, below = (list(map(gap, *ends)) for ends in ((high, value), (value, low)))
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.2, "width": 3}


def style(layout: dict[str, Any]) -> dict[str, Any]:
    """A layout with what all figures share; axes keep what they say themselves."""
    axis: dict[str, Any] = {"automargin": True, "gridcolor": "#e5e5e5", "zeroline": False, "linecolor": GREY, "ticks": "outside"}
    shared: dict[str, Any] = {
        "height": HEIGHT,
        "margin": {"l": 60, "r": 15, "t": 25, "b": 50},
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#1a1a1a"},
        "colorway": list(CYCLE),
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "hovermode": "closest",
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
    }
    named = {key: axis | layout.get(key, {}) for key in {"xaxis", "yaxis", *(k for k in layout if k.startswith(("xaxis", "yaxis")))}}
    return shared | layout | named


def picture(jpeg: bytes, words: str) -> Html:
    """A photograph inside the page."""
    return Html(f'<img alt="{escaped(words)}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">')


def page(title: str, banner: str, sections: Sequence[Section]) -> str:
    """The whole file. The library is compressed: the browser unpacks in a twentieth of a second what else were 5 MB."""
    links = "".join(f'<a href="#{escaped(s.anchor)}">{escaped(s.title)}</a>' for s in sections)
    bodies = "\n".join(f'<section id="{escaped(s.anchor)}"><h2>{escaped(s.title)}</h2>\n{s.body}\n</section>' for s in sections)
    parts = {
        "title": escaped(title),
        "banner": f'<p class="banner" role="alert">{escaped(banner)}</p>' if banner else "",
        "links": links,
        "width": str(FIGURE_WIDTH),
        "sections": bodies,
        "plotly": base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode(),
    }
    text = TEMPLATE.read_text()
    pieces = text.split("{{")  # one pass: what was put in is never looked at again
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        filled += [parts[name], rest]
    return "".join(filled)


def _json(content: Any) -> str:
    """JSON inside a script element: `<` is written so that no text of the data can end it."""
    return f'<script type="application/json">{json.dumps(_finite(content), separators=(",", ":")).replace("<", chr(92) + "u003c")}</script>'


def _finite(value: Any) -> Any:
    """NaN and infinities as null: a browser's JSON knows neither."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
