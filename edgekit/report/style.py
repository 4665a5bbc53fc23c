"""The style sheet of the HTML report: two colour schemes, paper, and phones."""

from __future__ import annotations

# Contrast against `ground` is at least 4.5 for all that is text (a test computes it).
LIGHT = {
    "ground": "#ffffff", "sheet": "#f3f5f7", "ink": "#1b1f24", "soft": "#57606a", "line": "#d3d9df",
    "before": "#66707b", "after": "#0b5cad", "float": "#8a5300", "good": "#19692f", "bad": "#b3261e",
}  # fmt: skip
DARK = {
    "ground": "#14171a", "sheet": "#1e2328", "ink": "#e7eaed", "soft": "#a3adb7", "line": "#373e46",
    "before": "#98a2ad", "after": "#6db1ff", "float": "#e0a458", "good": "#62cc7f", "bad": "#ff8f83",
}  # fmt: skip


def sheet() -> str:
    """Give the whole style sheet."""
    light, dark = (";".join(f"--{name}:{value}" for name, value in scheme.items()) for scheme in (LIGHT, DARK))
    return (
        f":root{{color-scheme:light dark;{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{_RULES.strip()}\n"
    )


_RULES = """
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums lining-nums;overflow-wrap:anywhere}
main{max-width:62rem;margin:0 auto;padding:2rem 1.25rem 3rem}
h1{font-size:1.05rem;font-weight:600;line-height:1.35;margin:0 0 .35rem;color:var(--soft)}
.verdict{max-width:none;text-wrap:balance;font-size:1.5rem;line-height:1.3;font-weight:650;letter-spacing:-.01em;
margin:0 0 .6rem}
h2{font-size:1.1rem;margin:2.6rem 0 .8rem;padding-bottom:.3rem;border-bottom:1px solid var(--line)}
p{margin:.4rem 0;max-width:46rem}
small,.soft{color:var(--soft);font-size:.875rem}
.gates{list-style:none;margin:.6rem 0 0;padding:0;display:flex;flex-wrap:wrap;gap:.4rem .6rem}
.gates li{border:1px solid currentColor;border-radius:4px;padding:.05rem .5rem;font-size:.875rem}
.pass{color:var(--good)}.fail{color:var(--bad);font-weight:650}
.scroll{overflow-x:auto;margin:.8rem 0}
table{border-collapse:collapse;width:100%;font-size:.9rem;overflow-wrap:normal}
caption{text-align:left;color:var(--soft);font-size:.875rem;padding-bottom:.35rem}
th,td{padding:.32rem .6rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top;white-space:nowrap}
th{font-weight:600}thead th{color:var(--soft);font-size:.8rem;vertical-align:bottom}
tbody th,th[rowspan],thead tr:first-child>:first-child{text-align:left}
tbody th,thead tr:first-child>:first-child{padding-left:0}
tbody th{font-weight:400}.l,th[colspan]{text-align:left}
.summary{font-size:1rem}.summary td:nth-child(3){font-weight:650}
.summary td:last-child{text-align:left;white-space:normal;min-width:11rem}.summary small{display:block}
.chosen>*{font-weight:650}
.classes td:nth-child(3),.classes td:nth-child(10),.classes th[colspan]{border-left:1px solid var(--line)}
.layers td:nth-child(2),.layers td:last-child{text-align:left}.layers td:last-child{white-space:normal;min-width:14rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,25rem),1fr));grid-auto-flow:dense;
gap:1.6rem 2rem}
figure{margin:0;min-width:0;break-inside:avoid}.wide{grid-column:1/-1}
figcaption{font-weight:600;margin-bottom:.5rem}figcaption small{display:block;font-weight:400}
svg{display:block;width:100%;height:auto;max-width:34rem}.wide svg{max-width:60rem;min-width:40rem}
svg text{fill:var(--ink);font-size:12px}svg .small{fill:var(--soft);font-size:11px}svg .ink{fill:var(--ink)}
svg .label{font-size:11px;paint-order:stroke;stroke:var(--ground);stroke-width:3px}svg .label.chosen{font-weight:650}
.sheet{fill:var(--sheet)}.fill-before{fill:var(--before)}.fill-after{fill:var(--after)}.fill-float{fill:var(--float)}
.fill-bad{fill:var(--bad)}.bar-before{stroke:var(--before)}.bar-after{stroke:var(--after)}
.bar-float{stroke:var(--float)}.mark{stroke:var(--ink);stroke-width:2}
.axis{stroke:var(--soft);fill:none}.grid{stroke:var(--line);fill:none}
.level{stroke:var(--soft);stroke-dasharray:2 3;fill:none}.limit{stroke:var(--bad);stroke-dasharray:5 3;fill:none}
.beyond{fill:var(--bad);fill-opacity:.06}
.area-before{fill:var(--before);fill-opacity:.28;stroke:var(--before);stroke-dasharray:4 2}
.area-after{fill:var(--after);fill-opacity:.28;stroke:var(--after);stroke-width:1.5}
.median-before{stroke:var(--before);stroke-dasharray:4 2}.median-after{stroke:var(--after);stroke-width:2}
svg .ink-before,svg .ink-after{font-weight:600;paint-order:stroke;stroke:var(--ground);stroke-width:3px}
svg .ink-before{fill:var(--before)}svg .ink-after{fill:var(--after)}
.dot{fill:var(--after)}.dot.faint{fill:var(--ground);stroke:var(--before);stroke-opacity:.75}.ring{fill:none;stroke:var(--after);
stroke-width:2}.dot.front{fill-opacity:.45;stroke:var(--after)}.cross{stroke:var(--ink);stroke-width:2;fill:none}
.whisker{stroke:var(--after);fill:none}.whisker.faint{stroke:var(--before);stroke-opacity:.5}
details{margin:.8rem 0;border-top:1px solid var(--line);padding-top:.5rem}summary{cursor:pointer;font-weight:600}
ul.plain{padding-left:1.1rem;margin:.4rem 0;max-width:52rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.2rem;margin:.6rem 0}dt{color:var(--soft)}dd{margin:0}
pre{background:var(--sheet);padding:1rem;overflow-x:auto;font:.8rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,
monospace;border-radius:4px;overflow-wrap:normal}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
footer{margin-top:3rem;color:var(--soft);font-size:.875rem}
:focus-visible{outline:2px solid var(--after);outline-offset:2px}
@media (max-width:36rem){main{padding:1.25rem 1rem 2rem}.verdict{font-size:1.25rem}.summary thead{display:none}
.summary tr{display:grid;grid-template-columns:1.2fr 1fr 1fr;border-bottom:1px solid var(--line);padding:.3rem 0}
.summary tr>*{border:0;padding:.1rem 0}.summary td:last-child{grid-column:1/-1;color:var(--soft)}
dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.5rem}th,td{padding:.3rem .4rem}}
@media print{main{max-width:none;padding:0}.scroll{overflow:visible}pre{white-space:pre-wrap}body{font-size:11pt}
.wide svg{min-width:0}details::details-content{content-visibility:visible;block-size:auto}tr{break-inside:avoid}
h2{break-after:avoid}}
"""
