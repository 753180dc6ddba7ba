"""How the comparison's picture looks: its colours and its style sheet."""

from __future__ import annotations

# Okabe and Ito's, whom most who are colour-blind can tell apart; with what is
# read on them
COLOURS = (
    ("#0072b2", "#fff"),
    ("#e69f00", "#111"),
    ("#009e73", "#fff"),
    ("#f0e442", "#111"),
    ("#cc79a7", "#111"),
    ("#56b4e9", "#111"),
    ("#d55e00", "#fff"),
    ("#8c8c8c", "#111"),
)
TEXTURES = 3
"""Plain, striped and dotted."""

OWN = len(COLOURS) * TEXTURES
"""So many threads have a look of their own."""

_SHEET = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c2127;
  --soft: #5f6b76; --line: #c9d0d7; --lane: #eef1f4;
  --queue: #c2500f; --reaper: #1769d2 }
@media (prefers-color-scheme: dark) {
  :root { --page: #15191e; --ink: #e6eaee; --soft: #9aa6b2;
    --line: #3b444d; --lane: #232a31; --queue: #f08a4b; --reaper: #63a9ff }
}
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans",
  sans-serif; color: var(--ink); background: var(--page);
  margin: 0 auto; max-width: 76rem; padding: 1.2rem clamp(.8rem, 3vw, 2rem);
  overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .4rem }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .3rem; padding-top: .8rem;
  border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.6rem 0 .2rem }
p { margin: .3rem 0; max-width: 46rem }
.soft, figcaption, dt { color: var(--soft) }
figure { margin: .6rem 0 1.4rem }
figcaption { font-size: .87rem; max-width: 46rem }
dl { display: flex; flex-wrap: wrap; gap: .1rem 1.3rem; margin: .4rem 0 1rem;
  font-size: .87rem }
dl div { display: flex; gap: .4rem }
dd { margin: 0 }
ul { padding-left: 1.2rem; max-width: 46rem }
table { border-collapse: collapse }
.figures td, .figures th { padding: .18rem .7rem .18rem 0; text-align: right;
  font-weight: normal; vertical-align: bottom }
.figures td { font-variant-numeric: tabular-nums; white-space: nowrap }
.figures tr > :first-child { text-align: left; padding-right: 1.6rem }
.figures thead th, .figures th.part { font-weight: 600 }
.figures thead th { white-space: nowrap }
.figures th.part { padding-top: .8rem }
.figures tbody tr + tr { border-top: 1px solid var(--line) }
.QueuePool { color: var(--queue) } .ReaperPool { color: var(--reaper) }
.pool { font-weight: 600 }
.key { display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; margin: .3rem 0;
  font-size: .87rem }
.key span { display: inline-flex; align-items: center; gap: .4rem }
.key svg { width: 1.1em; height: 1.1em; flex: none }
.waits { table-layout: fixed; width: 100%; font-size: .8rem }
.waits th { font-weight: normal; text-align: left; padding: 0 .4rem 0 0;
  white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
.waits td { padding: 0; height: 26px } .waits .last { text-align: right;
  padding-left: .6rem; line-height: 13px; font-variant-numeric: tabular-nums }
.waits .name { width: 6rem } .waits .last { width: 7rem }
.waits thead th { color: var(--soft); vertical-align: bottom }
svg { display: block; overflow: visible }
svg.plot { width: 100% }
svg text { font-size: 11px; fill: var(--soft) }
.grid { stroke: var(--line); stroke-width: 1 }
.waits .QueuePool, .waits .ReaperPool, .key .QueuePool, .key .ReaperPool {
  stroke: currentColor; fill: currentColor }
.key span.QueuePool, .key span.ReaperPool { stroke: none }
.range { stroke-width: 1.5; opacity: .55 } .quart { stroke: none;
  opacity: .5 } .middle { stroke-width: 2.5 } .most { stroke: none }
.lane { fill: var(--lane) }
.hold { stroke-width: 1 }
text.label { font-size: 10px; pointer-events: none; paint-order: stroke;
  stroke-width: 3px; stroke-linejoin: round }
.sum { display: flex; flex-wrap: wrap; gap: 0 3rem; align-items: start }
.sum ul { flex: 1 1 22rem; margin-top: 2.2rem }
.sum li + li { margin-top: .6rem }
@media (max-width: 40rem) {
  body { font-size: 14px }
  .waits .name { width: 4.6rem } .waits .last { width: 4.4rem }
  .odd, .small { display: none }
  .figures td, .figures th { padding-right: .35rem; font-size: .87rem }
  .figures tr > :first-child { padding-right: .6rem; white-space: normal }
}
"""


def sheet() -> str:
    """What belongs into the head."""

    return f"{_SHEET}{_fills()}"


def read_on(thread: int) -> str:
    """The style of letters that are read on the thread's bars."""

    ground, ink = COLOURS[(thread - 1) % len(COLOURS)]
    return f"fill:{ink};stroke:{ground}"


def kind(thread: int) -> str:
    """The class by which a thread's bars are filled."""

    return f"t{(thread - 1) % OWN}"


def _fills() -> str:
    rules = []
    for number in range(OWN):
        texture, colour = divmod(number, len(COLOURS))
        fill = f"url(#p{number})" if texture else COLOURS[colour][0]
        rules.append(
            f".t{number} {{ fill: {fill}; stroke: {COLOURS[colour][0]} }}"
        )
    return "\n".join(rules)


def patterns() -> str:
    """What the fills refer to."""

    patterns = []
    for number in range(len(COLOURS), OWN):
        texture, colour = divmod(number, len(COLOURS))
        ground, ink = COLOURS[colour]
        mark = (
            '<rect width="2" height="6"'
            if texture == 1
            else '<circle cx="3" cy="3" r="1.3"'
        )
        turned = ' patternTransform="rotate(45)"' if texture == 1 else ""
        patterns.append(
            f'<pattern id="p{number}" width="6" height="6" '
            f'patternUnits="userSpaceOnUse"{turned}>'
            f'<rect width="6" height="6" fill="{ground}"/>'
            f'{mark} fill="{ink}" fill-opacity="0.45"/></pattern>'
        )
    return (
        '<svg width="0" height="0" style="position:absolute" '
        f'aria-hidden="true"><defs>{"".join(patterns)}</defs></svg>\n'
    )
