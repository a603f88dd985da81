"""The style sheet of the report: light and dark, for screens of any width and for paper."""

from typing import Final

STYLE: Final = """\
:root {
  --ground: #fafaf8; --card: #fff; --ink: #1c1e21; --quiet: #686e77; --rule: #e4e4df;
  --model: #1f5fd0; --served: #c2570c; --oracle: #7a828d; --bar: #e3ebfa;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14161a; --card: #1c1f25; --ink: #e9eaec; --quiet: #9ba2ad; --rule: #2e323a;
    --model: #7aaaff; --served: #f2a25c; --oracle: #a4acb8; --bar: #26334d;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
header { margin-bottom: 28px; }
h1 { margin: 0; font-size: 34px; letter-spacing: -0.02em; line-height: 1.2; }
h2 { margin: 44px 0 10px; font-size: 20px; letter-spacing: -0.01em; }
h3 { margin: 0; font-size: 13px; font-weight: 600; color: var(--quiet); }
p { margin: 4px 0; }
.quiet { color: var(--quiet); font-size: 14px; }
.cards { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); }
.card {
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 14px 16px;
}
.figure {
  font-size: 30px; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums;
  letter-spacing: -0.02em;
}
.card .quiet { font-size: 13px; }
.card .quiet span { white-space: nowrap; margin-right: 8px; font-variant-numeric: tabular-nums; }
span.served, thead .served { color: var(--served); }
span.oracle, thead .oracle { color: var(--oracle); }
figure {
  margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 14px 16px 8px;
}
.charts { display: grid; gap: 14px; margin-top: 12px; }
.charts figure:first-child { grid-column: 1 / -1; }
@media (min-width: 900px) { .charts { grid-template-columns: 1fr 1fr; } }
.chart { display: block; width: 100%; height: auto; margin-top: 6px; overflow: visible; }
.chart text { font-size: 12px; fill: var(--quiet); font-variant-numeric: tabular-nums; }
.chart text.strong { fill: var(--ink); font-weight: 600; }
.chart text.name { font-size: 13px; font-weight: 600; }
.chart .grid { stroke: var(--rule); stroke-width: 1; }
.chart .tickmark { stroke: var(--quiet); }
.chart .reference { stroke: var(--quiet); stroke-dasharray: 2 4; }
.chart .line {
  fill: none; stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round;
}
.chart path.model { stroke: var(--model); } .chart text.model { fill: var(--model); }
.chart path.served { stroke: var(--served); } .chart text.served { fill: var(--served); }
.chart path.oracle { stroke: var(--oracle); stroke-dasharray: 5 4; }
.chart text.oracle { fill: var(--oracle); }
.chart circle { fill: transparent; }
.chart circle:hover { fill: currentColor; fill-opacity: 0.25; }
.scroll { overflow-x: auto; }
table {
  border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums;
}
th, td { padding: 7px 9px; text-align: right; white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--quiet); font-weight: 600; font-size: 13px; }
thead tr, tbody tr { border-bottom: 1px solid var(--rule); }
tbody th { font-weight: 500; }
td.bar {
  background: linear-gradient(var(--bar), var(--bar)) no-repeat 0 50% / var(--share) 70%;
}
.lists { display: grid; gap: 28px; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); }
dl {
  display: grid; grid-template-columns: auto 1fr; gap: 4px 18px; margin: 8px 0; font-size: 14px;
}
dt { color: var(--quiet); }
dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
code { font-size: 13px; }
dl.code { grid-template-columns: 1fr; }
dl.code dd { text-align: left; margin-bottom: 6px; }
details { margin-top: 40px; border-top: 1px solid var(--rule); padding-top: 14px; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font-size: 13px; line-height: 1.45; }
@media print { body { background: none; } .card, figure { break-inside: avoid; } }
"""
