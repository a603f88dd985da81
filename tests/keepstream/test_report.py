import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepstream.report import render_report
from keepstream.svg import Series, line_chart
from trainer.metrics import MetricsConfig, Prequential

VOID = {"meta"}


class Page(HTMLParser):
    """Reads a page strictly: every tag is closed in its turn."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text, self.attributes = [], [], [], []

    def handle_starttag(self, tag, attrs):
        """Note a tag that opens."""
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Note a tag that closes itself."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        """Close the innermost tag, which must be this one."""
        assert tag == self.open.pop()

    def handle_data(self, data):
        """Note the text."""
        self.text.append(data)


def read(html):
    """Return the page, well-formed."""
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def result():
    """Return what a run ends with: here random predictions over two days."""
    rng = np.random.default_rng(0)
    n = 6000
    metrics = Prequential(MetricsConfig(max_open_rows=4096, max_user_rows=8192))
    p = rng.beta(1, 9, n).astype(np.float32)
    metrics.update(
        {"model": np.clip(p * 1.1, 0, 1), "as_served": p / 2, "oracle": p},
        (rng.random(n) < p).astype(np.float32),
        at_ms=1_700_006_400_000 + np.sort(rng.integers(0, 2 * 86_400_000, n)),
        request=np.arange(n, dtype=np.uint64) // np.uint64(8),
        user=rng.integers(1, 100, n).astype(np.uint64),
        scene=rng.integers(1, 3, n).astype(np.uint64),
        item_age_h=rng.exponential(30, n),
    )
    return {
        **metrics.summary({1: "front <page>", 2: "article"}),
        "counts": {"events": 6600, "late": 2, "dead_letters": {"malformed": 3}},
        "weights_digest": "c3" * 16,
        "examples_per_s": 12345.6,
        "wall_s": 17.2,
        "ended": True,
        "config": {"train": {"note": "<script>alert(1)</script>"}},
    }


def test_the_page_stands_alone(result):
    """A report is mailed, archived and opened years later: nothing may be fetched or run."""
    html = render_report(result)
    page = read(html)

    assert {"script", "link", "img", "iframe"} & set(page.tags) == set()
    assert [a for a, _ in page.attributes if a in ("src", "href") or a.startswith("on")] == []
    assert re.findall(r"https?://|url\(|@import", html) == []


def test_the_page_shows_what_was_measured(result):
    """A person decides by these figures: they are the result's, to four digits."""
    text = "\n".join(read(render_report(result)).text)

    for key in ("auc_request", "logloss", "normalized_entropy", "calibration", "auc", "auc_user"):
        for suffix in ("", "_as_served", "_oracle"):
            assert f"{result[key + suffix]:.4f}" in text
    for scene in result["by_scene"].values():
        assert f"{scene['auc_request']:.4f}" in text
    for part in ("front <page>", "12,346", "c3" * 16, "Dead letters: malformed", "6,600"):
        assert part in text


def test_three_curves_show_three_arms(result):
    """The model's curve means something only beside what was served and what was possible."""
    html = render_report(result)

    assert html.count("<svg") == 3
    for css in ("model", "served", "oracle"):
        assert html.count(f'<path class="line {css}"') == 3


def test_names_from_the_log_cannot_become_markup(result):
    """Scenes and configuration are written by others."""
    page = read(render_report(result))

    assert "script" not in page.tags
    assert "alert(1)" in "".join(page.text)


@pytest.mark.parametrize("part", [{}, {"examples": 3, "clicks": 0}, "only the model"])
def test_what_is_missing_is_left_out(part, result):
    """A run that was stopped at once, or knows no oracle, still gets its page."""
    if isinstance(part, str):
        part = {k: v for k, v in result.items() if not k.endswith(("_oracle", "_as_served"))}
        part["windows"] = part["windows"][:1]

    page = read(render_report(part))

    texts = [text.strip() for text in page.text]
    assert "keepstream" in texts
    assert ("oracle" in texts) == ("logloss_oracle" in str(part))  # in a window, if at all


points = st.lists(
    st.tuples(st.integers(10**12, 4 * 10**12), st.none() | st.floats(-1e6, 1e6)), max_size=30
)


@given(points, points, st.none() | st.floats(-10, 10))
def test_any_values_make_a_chart(first, second, reference):
    """A curve that is flat, broken, wild or one point long must not cost the report."""
    series = [Series("a & b", "model", sorted(first, key=lambda p: p[0])),
              Series("c", "oracle", sorted(second, key=lambda p: p[0]))]  # fmt: skip
    chart = line_chart("both", series, width=400, height=200, reference=reference)

    assert "nan" not in chart.lower()
    assert (chart == "") == all(v is None for _, v in first + second)
    read(chart)
