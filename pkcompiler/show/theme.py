"""Colours and type, said once: the page's CSS variables, Bokeh's figures and matplotlib's are made from these tables.

The three colours of series are those of Okabe and Ito (2008), which colour-blind readers tell apart, lightened on dark. Mass is
shown by one hue from pale to deep, so that lightness alone carries it.
"""

from __future__ import annotations

LIGHT = {
    "page": "#f6f7f9",
    "surface": "#ffffff",
    "raised": "#f0f2f5",
    "line": "#dfe3e8",
    "text": "#16202b",
    "muted": "#5b6876",
    "accent": "#0072b2",
    "second": "#c45500",
    "third": "#00805e",
    "warning": "#a64b00",
    "edge": "#9aa6b2",
    "blank": "#ffffff",
    "low": "#e4edf5",
    "high": "#00568a",
    "onlow": "#16202b",
    "onhigh": "#ffffff",
}
DARK = {
    "page": "#0f151b",
    "surface": "#161e26",
    "raised": "#1e2832",
    "line": "#2b3743",
    "text": "#e6ebf0",
    "muted": "#94a2b0",
    "accent": "#56b4e9",
    "second": "#f0a030",
    "third": "#35c49a",
    "warning": "#f2b05c",
    "edge": "#5d6c7a",
    "blank": "#1a242d",
    "low": "#1f2f3d",
    "high": "#6cc3f5",
    "onlow": "#e6ebf0",
    "onhigh": "#08131c",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


def css_variables() -> str:
    """``:root`` rules: light, dark where the system is, and either where the reader chose it."""
    light, dark = (";".join(f"--{name}:{value}" for name, value in table.items()) for table in (LIGHT, DARK))
    return (
        f":root{{color-scheme:light;{light}}}"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}"
    )


def ramp(part: float, low: str, high: str) -> str:
    """The colour ``part`` (0 to 1) of the way between two ``#rrggbb``."""
    pairs = ((int(low[i : i + 2], 16), int(high[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in pairs)
