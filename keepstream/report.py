"""The result of a run as one self-contained HTML page: no script, nothing fetched."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

import orjson

from keepstream.style import STYLE
from keepstream.svg import Series, line_chart, time_text

Result = Mapping[str, Any]

_ARMS: Final = (("", "model"), ("_as_served", "as served"), ("_oracle", "oracle"))
_CSS: Final = {"": "model", "_as_served": "served", "_oracle": "oracle"}
_CHARTS: Final = (
    ("auc_request", "AUC per request", "higher is better", None),
    ("logloss", "Log loss", "lower is better", None),
    ("calibration", "Calibration", "predicted over actual clicks: 1 is right", 1.0),
)
_SIZES: Final = ((1030, 270), (490, 210), (490, 210))  # the first has a row of its own
_THIN: Final = 0.1  # windows with fewer than this share of the median's examples are left out
_DIGESTS: Final = ("weights_digest", "examples_digest", "config_digest")


def render_report(result: Result) -> str:
    """Return the page of a result: what `keepstream … --json` ends with, and its configuration.

    Whatever the result lacks, the page leaves out.
    """
    sections = (
        _header(result),
        _cards(result),
        _curves(result),
        _slices("By scene", "Scene", _named(result.get("by_scene")), result),
        _slices("By day", "Day", _days(result.get("by_day")), result),
        _slices("By user activity", "Shown before", _named(result.get("by_activity")), result),
        _slices("By item age", "Hours since first seen", _named(result.get("by_item_age")), result),
        _run(result),
        _configuration(result.get("config")),
    )
    body = "\n".join(s for s in sections if s)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(_title(result))}</title>\n<style>\n{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _title(result: Result) -> str:
    return f"keepstream: {result.get('examples', 0):,} examples"


def _header(result: Result) -> str:
    windows = result.get("windows") or []
    when = ""
    if windows:
        when = f"{time_text(windows[0]['from_ms'])} to {time_text(windows[-1]['until_ms'])} UTC"
    clicks, examples = result.get("clicks", 0), result.get("examples", 0)
    rate = f", {100 * clicks / examples:.2f} % clicked" if examples else ""
    ended = result.get("ended")
    state = "" if ended is None else ("read to the end" if ended else "interrupted")
    facts = " · ".join(escape(s) for s in (when, f"{examples:,} examples{rate}", state) if s)
    return (
        "<header><h1>keepstream</h1>"
        "<p>Every example was scored before it was learned.</p>"
        f'<p class="quiet">{facts}</p></header>'
    )


def _cards(result: Result) -> str:
    cards = [
        _card("AUC per request", result, "auc_request"),
        _card("Log loss", result, "logloss"),
        _card("Normalised entropy", result, "normalized_entropy"),
        _card("Calibration", result, "calibration"),
        _card("AUC", result, "auc"),
        _card("AUC per user", result, "auc_user"),
    ]
    learned = _learned(result)
    if learned is not None:
        cards.append(_plain_card("Learned", f"{100 * learned:.0f} %",
                                 "of what lies between the base rate and the oracle"))  # fmt: skip
    if result.get("examples_per_s") is not None:
        wall = f"in {result['wall_s']:,.0f} s" if result.get("wall_s") is not None else ""
        cards.append(_plain_card("Examples a second", f"{result['examples_per_s']:,.0f}", wall))
    return f'<section class="cards">{"".join(c for c in cards if c)}</section>'


def _learned(result: Result) -> float | None:
    """Return how much of the gain in log loss that is possible was reached."""
    loss, entropy = result.get("logloss"), result.get("normalized_entropy")
    best = result.get("logloss_oracle")
    if not loss or not entropy or best is None:
        return None
    base = loss / entropy
    return float((base - loss) / (base - best)) if base > best else None


def _card(title: str, result: Result, key: str) -> str:
    if result.get(key) is None:
        return ""
    others = " ".join(
        f'<span class="{_CSS[suffix]}">{name} {_number(result[key + suffix])}</span>'
        for suffix, name in _ARMS[1:]
        if result.get(key + suffix) is not None
    )
    return _plain_card(title, _number(result[key]), others, safe=True)


def _plain_card(title: str, value: str, below: str, *, safe: bool = False) -> str:
    text = below if safe else escape(below)
    return (
        f'<div class="card"><h3>{escape(title)}</h3><p class="figure">{escape(value)}</p>'
        f'<p class="quiet">{text}</p></div>'
    )


def _curves(result: Result) -> str:
    windows = result.get("windows") or []
    sizes = sorted(w["examples"] for w in windows)
    least = _THIN * sizes[len(sizes) // 2] if sizes else 0
    kept = [w for w in windows if w["examples"] >= least]
    if len(kept) < 2:
        return ""
    minutes = (kept[0]["until_ms"] - kept[0]["from_ms"]) / 60_000
    each = f"{minutes / 60:g} h" if minutes >= 60 else f"{minutes:g} min"
    charts = []
    for (key, title, hint, reference), (width, height) in zip(_CHARTS, _SIZES, strict=True):
        series = [
            Series(name, _CSS[suffix], _points(kept, key + suffix))
            for suffix, name in _ARMS
            if any(w.get(key + suffix) is not None for w in kept)
        ]
        chart = line_chart(title, series, width=width, height=height, reference=reference)
        if chart:
            charts.append(
                f"<figure><figcaption><strong>{escape(title)}</strong> "
                f'<span class="quiet">{escape(hint)}</span></figcaption>{chart}</figure>'
            )
    return (
        f'<section><h2>Over time</h2><p class="quiet">Each point is {each} of event time, UTC.</p>'
        f'<div class="charts">{"".join(charts)}</div></section>'
    )


def _points(windows: Sequence[Result], key: str) -> list[tuple[int, float | None]]:
    return [((w["from_ms"] + w["until_ms"]) // 2, w.get(key)) for w in windows]


def _named(parts: Mapping[str, Result] | None) -> list[tuple[str, Result]]:
    return list((parts or {}).items())


def _days(days: Sequence[Result] | None) -> list[tuple[str, Result]]:
    return [(f"{d['number'] + 1}, from {time_text(d['from_ms'])}", d) for d in days or []]


def _slices(title: str, first: str, parts: list[tuple[str, Result]], whole: Result) -> str:
    columns = [(key, name) for key, name in (
        ("auc_request", "AUC per request"), ("auc_request_as_served", "as served"),
        ("auc_request_oracle", "oracle"), ("auc", "AUC"), ("auc_user", "per user"),
        ("logloss", "Log loss"), ("logloss_oracle", "oracle"),
        ("calibration", "Calibration"),
    ) if any(part.get(key) is not None for _, part in parts)]  # fmt: skip
    if not parts:
        return ""
    total = max(whole.get("examples", 0), 1)
    head = "".join(f'<th class="{_arm(key)}">{escape(name)}</th>' for key, name in columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        f'<td class="bar" style="--share:{100 * part["examples"] / total:.1f}%">'
        f"{part['examples']:,}</td><td>{100 * part['clicks'] / max(part['examples'], 1):.2f} %</td>"
        + "".join(f"<td>{_number(part.get(key))}</td>" for key, _ in columns)
        + "</tr>"
        for name, part in parts
    )
    return (
        f'<section><h2>{escape(title)}</h2><div class="scroll"><table><thead><tr>'
        f"<th>{escape(first)}</th><th>Examples</th><th>Clicked</th>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _arm(key: str) -> str:
    return next((css for suffix, css in _CSS.items() if suffix and key.endswith(suffix)), "model")


def _run(result: Result) -> str:
    speed = {
        "Examples a second": result.get("examples_per_s"),
        "Wall time, s": result.get("wall_s"),
        "Batches": result.get("batches"),
        "Peak memory, MB": result.get("peak_rss_mb"),
    }
    digests = {k.replace("_", " ").capitalize(): result.get(k) for k in _DIGESTS}
    counts = _flat(result.get("counts") or {})
    knowledge = _flat(result.get("knowledge") or {})
    lists = [
        _list("Events", {k.replace("_", " ").capitalize(): v for k, v in counts.items()}),
        _list("Knowledge", {k.replace("_", " ").capitalize(): v for k, v in knowledge.items()}),
        _list("Speed", speed),
        _list("Digests", digests, code=True),
    ]
    body = "".join(x for x in lists if x)
    return f'<section><h2>The run</h2><div class="lists">{body}</div></section>' if body else ""


def _flat(counts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in counts.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}: ")
        else:
            flat[prefix + key] = value
    return flat


def _list(title: str, facts: Mapping[str, Any], *, code: bool = False) -> str:
    known = {k: v for k, v in facts.items() if v is not None}
    if not known:
        return ""
    tag = "code" if code else "span"
    rows = "".join(
        f"<dt>{escape(k)}</dt><dd><{tag}>{escape(_plain(v))}</{tag}></dd>" for k, v in known.items()
    )
    return f'<div><h3>{escape(title)}</h3><dl class="{tag}">{rows}</dl></div>'


def _configuration(config: Mapping[str, Any] | None) -> str:
    if not config:
        return ""
    text = orjson.dumps(config, default=str, option=orjson.OPT_INDENT_2).decode()
    return (
        "<section><details><summary>Configuration</summary>"
        f"<pre>{escape(text)}</pre></details></section>"
    )


def _plain(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"  # an en dash: no value
