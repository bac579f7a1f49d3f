"""Draw the picture of the model on the README's first page, once for light and once for dark pages.

python docs/images/draw_model.py
"""

from pathlib import Path

THEMES = {
    "light": {
        "ink": "#1f2328",
        "soft": "#59636e",
        "line": "#818b98",
        "box": "#f6f8fa",
        "qc": "#0969da",
        "qc_box": "#ddf4ff",
        "oc": "#bc4c00",
        "oc_box": "#fff1e5",
    },
    "dark": {
        "ink": "#f0f6fc",
        "soft": "#9198a1",
        "line": "#656c76",
        "box": "#212830",
        "qc": "#4493f8",
        "qc_box": "#12233a",
        "oc": "#f0883e",
        "oc_box": "#33200f",
    },
}
WIDTH, HEIGHT = 1080, 440


def box(x, y, w, h, lines, colour="line", fill="box"):
    """A rounded box around lines of text; the first one is its title."""
    parts = [
        f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="9" fill="{{{fill}}}" '
        f'stroke="{{{colour}}}" stroke-width="1.6"/>'
    ]
    top = y + h / 2 - (len(lines) - 1) * 10 + 5
    for i, line in enumerate(lines):
        style = 'class="t" fill="{ink}"' if i == 0 else 'class="s" fill="{soft}"'
        parts.append(f'<text x="{x + w / 2}" y="{top + 20 * i}" {style}>{line}</text>')
    return "".join(parts)


def arrow(points, colour="line"):
    path = "M" + " L".join(f"{x} {y}" for x, y in points)
    return (
        f'<path d="{path}" fill="none" stroke="{{{colour}}}" stroke-width="2" '
        f'stroke-linejoin="round" marker-end="url(#{colour})"/>'
    )


def text(x, y, line, colour="soft", style="s", anchor="middle"):
    return (
        f'<text x="{x}" y="{y}" class="{style}" style="text-anchor:{anchor}" '
        f'fill="{{{colour}}}">{line}</text>'
    )


def drawing() -> str:
    markers = "".join(
        f'<marker id="{c}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0L8 4L0 8z" fill="{{{c}}}"/></marker>'
        for c in ("line", "qc", "oc")
    )
    x_a = "<tspan font-style='italic'>x</tspan>ₐ"
    x_q = "<tspan font-style='italic'>x</tspan><tspan dy='4' font-size='10'>q</tspan>"
    back = "<tspan dy='-4'> </tspan>"
    x_o = "<tspan font-style='italic'>x</tspan>ₒ"
    parts = [
        box(16, 150, 112, 76, ["scene", "any size"]),
        box(160, 136, 142, 104, ["backbone + FPN", "ConvNeXt, Swin,", "ResNet, timm"]),
        box(344, 60, 150, 76, ["anchor embedder", f"{x_a} of every anchor"]),
        # The two pathways.
        box(
            536,
            24,
            204,
            64,
            ["object-centric (OC)", f"{x_o} = g({x_a}) − {x_a}"],
            "oc",
            "oc_box",
        ),
        box(
            536,
            112,
            204,
            64,
            ["query-centric (QC)", f"{x_o} = {x_q}{back}− {x_a}"],
            "qc",
            "qc_box",
        ),
        box(786, 60, 128, 80, ["box detector", f"‖{x_o}‖ → score", "offset → box"]),
        box(344, 250, 396, 64, ["box embedder", "RoIAlign on p3, copy of the last backbone stage"]),
        box(786, 250, 128, 64, ["re-id", "embedding"]),
        box(954, 250, 110, 64, ["ranking", "by cosine"]),
        box(16, 352, 112, 72, ["query", "scene and box"], "qc", "qc_box"),
        arrow([(128, 188), (158, 188)]),
        arrow([(302, 176), (322, 176), (322, 98), (342, 98)]),
        arrow([(302, 200), (322, 200), (322, 272), (342, 272)]),
        arrow([(494, 88), (515, 88), (515, 56), (534, 56)], "oc"),
        arrow([(494, 108), (515, 108), (515, 144), (534, 144)], "qc"),
        arrow([(740, 56), (763, 56), (763, 90), (784, 90)], "oc"),
        arrow([(740, 144), (763, 144), (763, 110), (784, 110)], "qc"),
        # Found boxes go to the embedder; a given one too.
        arrow([(850, 140), (850, 216), (640, 216), (640, 248)]),
        text(795, 235, "detected boxes"),
        arrow([(740, 282), (784, 282)]),
        arrow([(914, 282), (952, 282)]),
        arrow([(128, 388), (460, 388), (460, 316)], "qc"),
        text(262, 380, "same backbone"),
        # The query's embedding is what the query-centric pathway subtracts from, and what ranks.
        arrow([(560, 250), (560, 178)], "qc"),
        text(552, 220, f"{x_q}", "qc", "s", "end"),
        arrow([(620, 314), (620, 388), (1009, 388), (1009, 316)], "qc"),
        text(815, 380, "the query's embedding"),
        text(574, 197, "for pre-training on weak boxes", "qc", "s", "start"),
        text(638, 14, "a bridge g predicts the query: for fine-tuning and search", "oc"),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -8 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="SPNet: one backbone, two '
        'pathways to offset embeddings, one box detector and one re-id embedder">'
        "<style>text{{font-family:system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif;"
        "text-anchor:middle}}.t{{font-size:14px;font-weight:600}}.s{{font-size:13px}}</style>"
        f"<defs>{markers}</defs>{''.join(parts)}</svg>\n"
    )


def main() -> None:
    for name, colours in THEMES.items():
        path = Path(__file__).with_name(f"model_{name}.svg")
        path.write_text(drawing().format(**colours), encoding="utf-8")


if __name__ == "__main__":
    main()
