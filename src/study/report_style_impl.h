// How the report looks: colours for light and dark, no scrolling of the page sideways at any width.
#pragma once

namespace thaw {

inline constexpr const char* kReportStyle = R"(
:root{--page:#fff;--text:#1b1f24;--soft:#57606a;--line:#d8dee4;--mark:#0b62c4;--pick:#b54708;--band:#f3f6f9}
@media (prefers-color-scheme:dark){:root{--page:#14181d;--text:#e6e9ec;--soft:#a2acb6;--line:#323a43;--mark:#6cb0ff;--pick:#ffab70;--band:#1d232a}}
*{box-sizing:border-box}
html{scroll-behavior:smooth}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:16px;overflow-wrap:anywhere}
h1{font-size:1.6rem;margin:0}
h2{font-size:1.15rem;margin:28px 0 8px}
p{margin:6px 0;max-width:46em}
.sub{color:var(--soft)}
.answer{font-size:1.35rem;font-weight:650}
a{color:var(--mark)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(320px,100%),1fr));gap:16px;margin-top:16px}
figure{margin:0;min-width:0}
figcaption{color:var(--soft);font-size:.85rem}
svg{display:block;width:100%;height:auto;overflow:visible;font:11.5px system-ui,sans-serif;fill:var(--text)}
svg path{fill:none}
.axis{stroke:var(--soft)}
.grid{stroke:var(--line)}
.ticks text,.name{fill:var(--soft)}
.mark .dot{fill:var(--mark)}
.mark .interval{stroke:var(--mark);stroke-width:2}
.mark .single{fill:var(--page);stroke:var(--mark)}
.mark.faint{opacity:.55}
.mark.faint .dot{fill:var(--page);stroke:var(--mark);stroke-width:1.5}
.mark.chosen .dot{fill:var(--pick)}
.mark.chosen .interval,.mark.chosen .single{stroke:var(--pick)}
.mark.chosen text{font-weight:700}
.mark text{fill:var(--text)}
.mark:focus{outline:none}
.mark:focus .dot,.mark:hover .dot{stroke:var(--text);stroke-width:3}
.front{stroke:var(--mark);stroke-width:1.5;stroke-dasharray:4 3}
.limit path{stroke:var(--pick);stroke-dasharray:2 3}
.limit text{fill:var(--pick)}
.line{stroke:var(--mark);stroke-width:2}
.line.chosen{stroke:var(--pick)}
.bar{fill:var(--mark)}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:6px}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums;overflow-wrap:normal}
th,td{padding:5px 9px;text-align:left;white-space:nowrap;border-bottom:1px solid var(--line)}
th{background:var(--band)}
tr.chosen td,tr:target td{background:var(--band)}
tr:target td:first-child{box-shadow:inset 3px 0 var(--pick)}
:focus-visible{outline:2px solid var(--pick);outline-offset:2px}
@media print{.scroll{overflow:visible}}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
)";

}  // namespace thaw
