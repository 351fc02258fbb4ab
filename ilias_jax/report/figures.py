"""Charts as inline SVG.

Horizontal positions are in percent and vertical ones in pixels, without a viewBox: a chart then
takes any width while its text and strokes keep their size.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from ilias_jax.report.markup import Markup, join, tag

_BAR_HEIGHT = 20
_BINS = 20
_PLOT_TOP, _PLOT_BOTTOM, _HISTOGRAM_HEIGHT = 18, 128, 150


def axis_maximum(values: Iterable[float]) -> int:
    """Returns the end of an axis that starts at 0: the next multiple of 10 percent, 10 to 100."""
    return min(100, max(10, 10 * math.ceil(max(values, default=0.0) / 10)))


def _at(value: float, maximum: float) -> str:
    return f"{100 * min(max(value / maximum, 0.0), 1.0):.2f}%"


def _vertical(x: str, top: float, bottom: float, class_: str) -> Markup:
    return tag("line", x1=x, x2=x, y1=top, y2=bottom, class_=class_)


def bar(value: float, interval: Sequence[float] | None, maximum: int) -> Markup:
    """Returns a bar from 0 to `value` with a whisker over `interval`, on an axis to `maximum`.

    Grid lines stand every 10 percent, or every 20 on an axis that goes beyond 50. The chart is
    hidden from screen readers: the cell beside it says the same numbers.
    """
    grid = range(0, maximum + 1, 10 if maximum <= 50 else 20)
    parts = [_vertical(_at(at, maximum), 0, _BAR_HEIGHT, "grid") for at in grid]
    parts.append(tag("rect", x=0, y=3, width=_at(value, maximum), height=14, class_="bar"))
    if interval is not None:
        low, high = (_at(v, maximum) for v in interval)
        middle = _BAR_HEIGHT / 2
        parts += [
            tag("line", x1=low, x2=high, y1=middle, y2=middle, class_="whisker"),
            _vertical(low, 5.5, 14.5, "whisker"),
            _vertical(high, 5.5, 14.5, "whisker"),
        ]
    return tag("svg", *parts, class_="bar-chart", height=_BAR_HEIGHT, aria_hidden="true")


def stacked_bar(first: float, second: float, maximum: float) -> Markup:
    """Returns two lengths end to end on an axis to `maximum`; hidden from screen readers."""
    parts = [
        tag("rect", x=0, y=0, width=_at(first, maximum), height=8, class_="compile"),
        tag("rect", x=_at(first, maximum), y=0, width=_at(second, maximum), height=8, class_="bar"),
    ]
    return tag("svg", *parts, class_="bar-chart thin", height=8, aria_hidden="true")


def histogram(aps: Sequence[float], mean: float, label: str) -> Markup:
    """Returns how many queries have which AP, in 20 bins of 5 percent; a dashed line at `mean`.

    Args:
      aps: average precision of each query in percent, 0 to 100.
      mean: where the dashed line goes, in percent.
      label: what a screen reader says instead of the picture.
    """
    counts = np.histogram(np.asarray(aps, np.float64), bins=_BINS, range=(0.0, 100.0))[0]
    most = max(int(counts.max()), 1)
    bars = [_histogram_bar(i, int(count), most) for i, count in enumerate(counts)]
    parts = [
        tag("line", x1=0, x2="100%", y1=_PLOT_TOP, y2=_PLOT_TOP, class_="grid"),
        tag("text", f"{most:,} queries", x="100%", y=_PLOT_TOP - 5, class_="end"),
        *bars,
        tag("line", x1=0, x2="100%", y1=_PLOT_BOTTOM, y2=_PLOT_BOTTOM, class_="axis"),
        _vertical(_at(mean, 100), _PLOT_TOP, _PLOT_BOTTOM, "mean"),
        _axis_labels(),
    ]
    return tag(
        "svg", *parts, class_="histogram", height=_HISTOGRAM_HEIGHT, role="img", aria_label=label
    )


def _histogram_bar(i: int, count: int, most: int) -> Markup:
    height = (_PLOT_BOTTOM - _PLOT_TOP) * count / most
    step = 100 / _BINS
    title = f"AP {i * step:.0f} to {(i + 1) * step:.0f} %: {count:,} queries"
    return tag(
        "rect",
        tag("title", title),
        x=f"{i * step + 0.3:.2f}%",
        y=f"{_PLOT_BOTTOM - height:.1f}",
        width=f"{step - 0.6:.2f}%",
        height=f"{height:.1f}",
        class_="bar",
    )


def _axis_labels() -> Markup:
    labels = []
    for value in range(0, 101, 20):
        anchor = {0: "start", 100: "end"}.get(value, "middle")
        text = f"{value} %" if value in (0, 100) else str(value)
        labels.append(tag("text", text, x=f"{value}%", y=_HISTOGRAM_HEIGHT - 5, class_=anchor))
    return join(*labels)
