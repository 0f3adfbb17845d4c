"""Draws what stages/report.py computes; the only module that imports matplotlib.

Every function returns a matplotlib Figure as wide as a page's text (6.9 inches), for `save`. Colours are
those of Okabe and Ito and the maps viridis and cividis, which colour-blind readers can tell apart; markers and line
styles differ as well. Many points are drawn as a 2-d histogram, few as points. No figure uses pyplot or a display.
"""
import io
import logging
import os
import tempfile

import numpy as np

from cannonkit import errors

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7")
COLOURS = (RED, BLUE, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
WIDTH = 6.9           # inches
POINTS_BELOW = 4000   # more stars than this are drawn as a 2-d histogram

TEXT = {"teff": r"$T_\mathrm{eff}$", "logg": r"$\log\,g$", "fe_h": "[Fe/H]", "alpha_fe": r"[$\alpha$/Fe]",
        "vmicro": r"$v_\mathrm{micro}$", "vbroad": r"$v_\mathrm{broad}$"}

WAVELENGTH = r"wavelength ($\mathrm{\AA}$)"

_STYLE = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7,
    "ytick.labelsize": 7, "legend.fontsize": 7, "axes.linewidth": 0.6, "xtick.direction": "in",
    "ytick.direction": "in", "xtick.top": True, "ytick.right": True, "lines.linewidth": 1.0,
    "axes.formatter.useoffset": False, "legend.frameon": False, "image.cmap": "viridis",
    "mathtext.default": "regular",
}


def _matplotlib():
    """matplotlib with our style. UnavailableError, naming the extra to install, where it is not there."""
    if "MPLCONFIGDIR" not in os.environ and not os.access(os.path.expanduser("~"), os.W_OK):
        # without a home it would warn, and keep its list of fonts nowhere
        os.environ["MPLCONFIGDIR"] = os.path.join(tempfile.gettempdir(), f"cannonkit-matplotlib-{os.getuid()}")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        import matplotlib
    except ImportError:
        raise errors.UnavailableError(
            "figures need matplotlib, which is not installed: pip install 'cannonkit[report]'") from None
    return matplotlib


def require():
    """Raise UnavailableError before any work where matplotlib is not installed."""
    _matplotlib()


class _Sheet:
    """A Figure with a regular grid of panels, in inches: axes (rows, columns), and room for a colour bar.

    Margins are fixed, not measured: laying a figure out by measuring its text takes longer than drawing it.
    """

    def __init__(self, height, mock, rows=1, columns=1, *, left=0.62, right=0.1, bottom=0.42, top=0.08, wgap=0.64,
                 hgap=0.12, bar=False, height_ratios=None, sharex=False, sharey=False):
        """height: of a panel (of the mean one, with ratios), or None for square panels."""
        matplotlib = _matplotlib()
        from matplotlib.figure import Figure

        matplotlib.rcParams.update(_STYLE)
        right += 0.62 if bar else 0.0
        top += 0.18 if mock else 0.0
        width = (WIDTH - left - right - (columns - 1) * wgap) / columns
        height = width if height is None else height
        total = bottom + top + rows * height + (rows - 1) * hgap
        self.figure = Figure(figsize=(WIDTH, total))
        if mock:
            self.figure.text(1 - 0.03 / WIDTH, 1 - 0.03 / total, "MOCK: simulated stars", ha="right", va="top",
                             size=7, weight="bold", color=RED)
        self.axes = self.figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey, gridspec_kw={
            "left": left / WIDTH, "right": 1 - right / WIDTH, "bottom": bottom / total, "top": 1 - top / total,
            "wspace": wgap / width, "hspace": hgap / height, "height_ratios": height_ratios})
        self.total = total
        self._bar = (1 - (right - 0.08) / WIDTH, bottom / total, 0.12 / WIDTH, (total - bottom - top) / total)

    def colour_bar(self, mesh, text, **keywords):
        from matplotlib.ticker import NullLocator

        bar = self.figure.colorbar(mesh, cax=self.figure.add_axes(self._bar), **keywords)
        bar.set_label(text, labelpad=2)
        bar.ax.yaxis.set_minor_locator(NullLocator())
        return bar

    def below(self, text, at=0.05):
        """The label of all x axes, `at` inches above the foot."""
        self.figure.text(0.5, at / self.total, text, ha="center", va="bottom", size=8)

    def beside(self, text):
        """The label of all y axes."""
        self.figure.text(0.05 / WIDTH, 0.5, text, ha="left", va="center", size=8, rotation=90)

    def legend(self, handles):
        """A legend in one row at the foot; `bottom` has to leave 0.2 inches for it."""
        self.figure.legend(handles=handles, loc="lower center", ncols=len(handles), borderaxespad=0.1)


def save(figure, kind="png", dpi=150, about=None):
    """The figure as bytes: 'png', 'pdf' or 'svg'; `about` {Title, Description} stands in its metadata."""
    from matplotlib.backends import backend_agg, backend_pdf, backend_svg

    canvas = {"png": backend_agg.FigureCanvasAgg, "pdf": backend_pdf.FigureCanvasPdf,
              "svg": backend_svg.FigureCanvasSVG}
    if kind not in canvas:
        raise errors.UsageError(f"a figure can be png, pdf or svg, not {kind!r}")
    about = dict(about or {})
    if kind == "pdf":
        about = {"Title": about.get("Title", ""), "Subject": about.get("Description", ""), "CreationDate": None}
    elif kind == "svg":
        about = {"Title": about.get("Title", ""), "Description": about.get("Description", ""), "Date": None}
    else:
        about = {**about, "Software": "cannonkit"}
    canvas[kind](figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi, metadata=about)
    return buffer.getvalue()


def label_text(name, unit=""):
    """A label as an axis says it: `Teff (K)`, `[Fe/H] (dex)`."""
    return f"{TEXT.get(name, name)} ({unit})" if unit else TEXT.get(name, name)


def _few_ticks(ax):
    """Ticks in x, none at the ends, where the neighbouring panel's would touch them."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(4, prune="both", steps=[1, 2, 5, 10]))


def _grid(n, most=3):
    """Rows and columns for n panels."""
    columns = min(n, most)
    return -(-n // columns), columns


def _hide_rest(axes, n):
    for ax in axes.ravel()[n:]:
        ax.set_visible(False)


def _letter(ax, text):
    """A panel's name inside it, on a white ground so that data do not cross it."""
    ax.text(0.03, 0.96, text, transform=ax.transAxes, ha="left", va="top", size=8, zorder=10,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0})


def _numbers(ax, text, x=0.97, y=0.04, ha="right", va="bottom"):
    ax.text(x, y, text, transform=ax.transAxes, ha=ha, va=va, size=7, zorder=10, linespacing=1.25,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0})


def _cloud(ax, density, points, norm, colour=BLUE):
    """Stars: a 2-d histogram, or points (x, y) where they are few. Returns what a colour bar needs, or None."""
    if points is not None:
        size = 1.7 if len(points[0]) > 800 else 2.2 if len(points[0]) > 200 else 3.0
        ax.plot(*points, "o", ms=size, color=colour, alpha=0.6, mew=0, rasterized=True)
        return None
    counts = np.ma.masked_equal(density.counts.T, 0)
    return ax.pcolormesh(density.x_edges, density.y_edges, counts, norm=norm, cmap="viridis", rasterized=True)


def _norm(densities):
    from matplotlib.colors import LogNorm

    most = max([d.counts.max() for d in densities if d is not None] or [1])
    return LogNorm(1, max(most, 2))


def few(x, y):
    """(x, y) of the finite points where they are few enough to be drawn one by one, else None."""
    good = np.isfinite(x) & np.isfinite(y)
    return (np.asarray(x)[good], np.asarray(y)[good]) if good.sum() < POINTS_BELOW else None


def _running(ax, line, colour=RED):
    """Running median and 16-84 band; a white edge keeps the line visible on a histogram."""
    from matplotlib import patheffects

    edge = [patheffects.Stroke(linewidth=2.4, foreground="white"), patheffects.Normal()]
    ax.plot(line.x, line.median, "-", color=colour, lw=1.3, path_effects=edge, zorder=5)
    for y in (line.low, line.high):
        ax.plot(line.x, y, "--", color=colour, lw=0.9, path_effects=edge, zorder=5)


# --- figures ------------------------------------------------------------------------------------

def kiel(panels, x_range, y_range, units, mock):
    """Figure 1: Kiel diagrams. panels: [(title, density, points or None, contour Density or None, levels)]."""
    rows, columns = _grid(len(panels), 2)
    dense = [p[1] for p in panels if p[2] is None]
    sheet = _Sheet(2.7, mock, rows, columns, left=0.42, wgap=0.1, hgap=0.1, bar=dense, sharex=True, sharey=True)
    norm, mesh = _norm(dense), None
    for ax, (title, density, points, contour, levels) in zip(sheet.axes.ravel(), panels, strict=False):
        mesh = _cloud(ax, density, points, norm, ORANGE) or mesh
        _contour(ax, contour, levels, BLACK)
        _letter(ax, title)
        ax.set(xlim=x_range[::-1], ylim=y_range[::-1])
    _hide_rest(sheet.axes, len(panels))
    _outer_labels(sheet.axes, len(panels), label_text("teff", units["teff"]), label_text("logg", units["logg"]))
    if mesh is not None:
        sheet.colour_bar(mesh, "stars per cell")
    return sheet.figure


def _contour(ax, contour, levels, colour):
    if contour is not None and len(levels):
        x = (contour.x_edges[1:] + contour.x_edges[:-1]) / 2
        y = (contour.y_edges[1:] + contour.y_edges[:-1]) / 2
        ax.contour(x, y, contour.counts.T, levels=levels, colors=colour, linewidths=0.8)


def _outer_labels(axes, n, x_text, y_text=None):
    """Axis labels at the lowest panel of each column, and at the left."""
    columns = axes.shape[1]
    for k, ax in enumerate(axes.ravel()[:n]):
        if k + columns >= n:
            ax.set_xlabel(x_text, labelpad=2)
            ax.tick_params(labelbottom=True)
        if y_text is not None and k % columns == 0:
            ax.set_ylabel(y_text, labelpad=2)


def differences(panels, x_text, x_range, mock):
    """Figures 2, 7, 8: differences against Teff. panels: [(label, unit, Density, points, y_range, Running,
    numbers)] in the order of the labels."""
    rows, columns = _grid(len(panels), 2 if len(panels) <= 4 else 3)
    dense = [p[2] for p in panels if p[3] is None]
    sheet = _Sheet(1.75, mock, rows, columns, bar=dense, sharex=True)
    norm, mesh = _norm(dense), None
    for k, (ax, panel) in enumerate(zip(sheet.axes.ravel(), panels, strict=False)):
        label, unit, density, points, y_range, line, numbers = panel
        mesh = _cloud(ax, density, points, norm) or mesh
        ax.axhline(0, color=BLACK, lw=0.6)
        _running(ax, line)
        ax.set(xlim=x_range, ylim=y_range)
        ax.set_ylabel(r"$\Delta$ " + label_text(label, unit), labelpad=2)
        _letter(ax, f"({'abcdefghijklmnop'[k]})")
        _numbers(ax, numbers)
    _hide_rest(sheet.axes, len(panels))
    _outer_labels(sheet.axes, len(panels), x_text)
    if mesh is not None:
        sheet.colour_bar(mesh, "stars per cell")
    return sheet.figure


def one_to_one(panels, x_text, y_text, mock):
    """Figures 3, 4, A1 to A3: panels [(label, unit, Density, points, range, Running, numbers)]."""
    rows, columns = _grid(len(panels))
    dense = [p[2] for p in panels if p[3] is None]
    sheet = _Sheet(None, mock, rows, columns, left=0.6, wgap=0.48, hgap=0.24, bottom=0.45, bar=dense,
                   right=0.1 if columns > 1 else 2.5)
    norm, mesh = _norm(dense), None
    for ax, (label, unit, density, points, limits, line, numbers) in zip(sheet.axes.ravel(), panels, strict=False):
        mesh = _cloud(ax, density, points, norm) or mesh
        ax.plot(limits, limits, "-", color=BLACK, lw=0.7, zorder=4)
        if line is not None:
            _running(ax, line)
        ax.set(xlim=limits, ylim=limits)
        _letter(ax, label_text(label, unit))
        _numbers(ax, numbers)
        ax.locator_params(nbins=5)
    _hide_rest(sheet.axes, len(panels))
    sheet.below(x_text)
    sheet.beside(y_text)
    if mesh is not None:
        sheet.colour_bar(mesh, "stars per cell")
    return sheet.figure


def residuals(wavelength, segment, rows, limit, mock):
    """Figures 5, 6: rows [(title, kind, arrays)], kind 'spectrum' (flux, model) or 'residual' (low, median,
    high), one column per segment."""
    segments = np.unique(segment[segment >= 0])     # -1: pixels between the segments
    sheet = _Sheet(1.2, mock, len(rows), len(segments), left=0.8, wgap=0.12, sharey="row", sharex="col")
    axes = sheet.axes
    for r, (title, kind, arrays) in enumerate(rows):
        for ax, s in zip(axes[r], segments, strict=True):
            own = segment == s
            x = wavelength[own]
            if kind == "spectrum":
                ax.plot(x, arrays[0][own], "-", color=BLACK, lw=0.35, label="observed", zorder=3)
                if arrays[1] is not None:
                    ax.plot(x, arrays[1][own], "-", color=ORANGE, lw=1.0, label="model")
                ax.set_ylim(0, 1.15)
            else:
                low, median, high = (a[own] for a in arrays)
                ax.fill_between(x, low, high, color=SKY, lw=0, alpha=0.7, label="16-84 %", rasterized=True)
                ax.plot(x, median, ".", color=BLACK, ms=0.8, mew=0, label="median", rasterized=True)
                ax.axhline(0, color=RED, lw=0.4)
                ax.set_ylim(-limit, limit)
            ax.set_xlim(x[0], x[-1])
            _few_ticks(ax)
        axes[r, 0].set_ylabel(title, size=7)
        if kind == "residual":
            axes[r, 0].legend(loc="lower left", handlelength=1.2, markerscale=6, borderpad=0.1)
        elif arrays[1] is not None:
            axes[r, 0].legend(loc="lower left", handlelength=1.2, ncols=2, borderpad=0.1, columnspacing=0.8)
    sheet.below(WAVELENGTH)
    return sheet.figure


def spectra(wavelength, segment, curves, mock):
    """Spectra above each other, one column per segment: curves [(name, flux, good)]."""
    segments = np.unique(segment[segment >= 0])     # -1: pixels between the segments
    longest = max(len(c[0]) for c in curves)
    sheet = _Sheet(0.15 + 0.5 * max(len(curves), 2), mock, 1, len(segments), left=0.4 + 0.062 * longest, wgap=0.1,
                   sharey=True)
    axes, step = sheet.axes, 0.6
    for ax, s in zip(axes[0], segments, strict=True):
        own = segment == s
        for k, (_, flux, good) in enumerate(curves):
            ax.plot(wavelength[own], np.where(good, flux, np.nan)[own] + step * (len(curves) - 1 - k), "-", lw=0.35,
                    color=(BLUE, BLACK)[k % 2])
        ax.set_xlim(wavelength[own][0], wavelength[own][-1])
        _few_ticks(ax)
    axes[0, 0].set_ylim(1 - 1.6 * step, 1 + step * (len(curves) - 1) + 1.0 * step)
    axes[0, 0].set_yticks([1 + step * (len(curves) - 1 - k) for k in range(len(curves))], [c[0] for c in curves])
    sheet.beside(f"normalised flux, offset by {step} (ticks at 1)")
    sheet.below(WAVELENGTH)
    return sheet.figure


def precision(panels, names, mock):
    """Figure 9: panels [(label, unit, [(snr, width, error, curve x, curve y) or None per model])]."""
    rows, columns = _grid(len(panels))
    sheet = _Sheet(1.7, mock, rows, columns, bottom=0.62, sharex=True)
    axes = sheet.axes
    for ax, (label, unit, curves) in zip(axes.ravel(), panels, strict=False):
        top = []
        for k, curve in enumerate(curves):
            if curve is None:
                continue
            snr, width, error, x, y = curve
            colour = COLOURS[k % len(COLOURS)]
            ax.errorbar(snr, width, yerr=error, fmt=MARKERS[k % len(MARKERS)], ms=3, lw=0, elinewidth=0.6, color=colour,
                        mew=0)
            ax.plot(x, y, LINES[k % len(LINES)], color=colour)
            top += [np.nanpercentile(width, 95) if np.isfinite(width).any() else np.nan]
        ax.set_ylim(0, 1.6 * np.nanmax(top) if np.isfinite(top).any() else 1)
        ax.set_ylabel(label_text(label, unit), labelpad=2)
    _hide_rest(axes, len(panels))
    _outer_labels(axes, len(panels), "S/N of the survey")
    from matplotlib.lines import Line2D

    keys = [Line2D([], [], color=COLOURS[k % len(COLOURS)], marker=MARKERS[k % len(MARKERS)], ms=3,
                   ls=LINES[k % len(LINES)], label=name) for k, name in enumerate(names)]
    sheet.legend(keys)
    return sheet.figure


def grid_of_panels(columns, rows, x_text, y_texts, cells, mock, invert_x=False, invert_y=False, bar_text=None,
                   x_range=None, ranges=None, keys=(), line_text=None):
    """Figures 10 to 14: one column per cluster, one row per kind of label.

    keys [(name, colour index or None, marker index)] and the words for lines, if any, stand at the foot.

    cells[row][column] is a list of (x, y, colour values or None, colour index, marker index, median or None),
    or of ('line', x, y) for an isochrone. A median is drawn as a dashed line.
    """
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D

    values = [c[2] for row in cells for cell in row for c in cell if c[0] is not None and not isinstance(c[0], str)
              and c[2] is not None]
    values = np.concatenate([v[np.isfinite(v)] for v in values]) if values else np.empty(0)
    norm = Normalize(*np.percentile(values, [2, 98])) if len(values) else None
    sheet = _Sheet(1.4, mock, len(rows), len(columns), top=0.24, bottom=0.62, wgap=0.08, hgap=0.08, bar=len(values),
                   sharex=True, sharey="row")
    axes, mesh = sheet.axes, None
    for r, row in enumerate(cells):
        for c, cell in enumerate(row):
            ax = axes[r, c]
            for item in cell:
                if isinstance(item[0], str):
                    ax.plot(item[1], item[2], "-", color=BLACK, lw=0.8, zorder=1)
                    continue
                x, y, values, colour, marker, median = item
                kind = dict(marker=MARKERS[marker], s=9, linewidths=0.3, zorder=3, rasterized=True)
                if values is not None:
                    mesh = ax.scatter(x, y, c=values, norm=norm, cmap="viridis", edgecolors=BLACK, **kind)
                else:
                    ax.scatter(x, y, color=COLOURS[colour], edgecolors="white", **kind)
                if median is not None and np.isfinite(median):
                    ax.axhline(median, ls="--", lw=0.9, color=COLOURS[colour], zorder=2)
            if not any(not isinstance(item[0], str) and len(item[0]) for item in cell):
                ax.text(0.5, 0.5, "no members", transform=ax.transAxes, ha="center", va="center", size=7, color="0.4")
            ax.locator_params(axis="y", nbins=5)
            if len(columns) > 2:
                _few_ticks(ax)
            if r == 0:
                ax.set_title(columns[c], pad=3)
        axes[r, 0].set_ylabel(f"{rows[r]}\n{y_texts[r]}", size=7, labelpad=2)
        if ranges is not None and ranges[r] is not None:
            axes[r, 0].set_ylim(ranges[r])
        if invert_y:
            axes[r, 0].invert_yaxis()
    if x_range is not None:
        axes[0, 0].set_xlim(x_range)
    if invert_x:
        axes[0, 0].invert_xaxis()
    sheet.below(x_text, 0.24)
    face = {None: ("white", BLACK), **{k: (c, c) for k, c in enumerate(COLOURS)}}
    shown = [Line2D([], [], ls="", marker=MARKERS[marker], ms=4, mew=0.5, label=name, mfc=face[colour][0],
                    mec=face[colour][1]) for name, colour, marker in keys]
    if line_text:
        shown.append(Line2D([], [], color=BLACK, lw=0.9, ls="-" if line_text == "isochrone" else "--", label=line_text))
    sheet.legend(shown)
    if mesh is not None:
        sheet.colour_bar(mesh, bar_text or "")
    return sheet.figure


def plane(panels, x_text, y_text, x_range, y_range, mock):
    """Figure 15: 2-d histograms side by side; panels [(title, Density, points)]."""
    rows, columns = _grid(len(panels), 2)
    dense = [p[1] for p in panels if p[2] is None]
    sheet = _Sheet(2.7, mock, rows, columns, left=0.58, wgap=0.1, hgap=0.1, bar=dense, sharex=True, sharey=True)
    norm, mesh = _norm(dense), None
    for ax, (title, density, points) in zip(sheet.axes.ravel(), panels, strict=False):
        mesh = _cloud(ax, density, points, norm) or mesh
        _letter(ax, title)
        ax.set(xlim=x_range, ylim=y_range)
    _hide_rest(sheet.axes, len(panels))
    _outer_labels(sheet.axes, len(panels), x_text, y_text)
    if mesh is not None:
        sheet.colour_bar(mesh, "stars per cell")
    return sheet.figure


def share_maps(panels, x_range, y_range, units, mock, text):
    """Where in the Kiel diagram a share is high: panels [(title, x_edges, y_edges, share (n_x, n_y), contour,
    levels)]."""
    rows, columns = _grid(len(panels), 2)
    sheet = _Sheet(2.7, mock, rows, columns, left=0.42, wgap=0.1, hgap=0.1, bar=True, sharex=True, sharey=True)
    mesh = None
    for ax, (title, x_edges, y_edges, share, contour, levels) in zip(sheet.axes.ravel(), panels, strict=False):
        mesh = ax.pcolormesh(x_edges, y_edges, np.ma.masked_invalid(share.T), vmin=0, vmax=1, cmap="cividis",
                             rasterized=True)
        _contour(ax, contour, levels, RED)
        _letter(ax, title)
        ax.set(xlim=x_range[::-1], ylim=y_range[::-1])
    _hide_rest(sheet.axes, len(panels))
    _outer_labels(sheet.axes, len(panels), label_text("teff", units["teff"]), label_text("logg", units["logg"]))
    sheet.colour_bar(mesh, text)
    return sheet.figure


def coefficients(wavelength, segment, rows, windows, mock):
    """Coefficient spectra: rows [(title, values)], windows {segment: [(low, high, element)]} shaded."""
    segments = np.unique(segment[segment >= 0])     # -1: pixels between the segments
    elements = sorted({w[2] for own in windows.values() for w in own})
    sheet = _Sheet(0.85, mock, len(rows), len(segments), left=0.7, bottom=0.62 if elements else 0.42, wgap=0.12,
                   sharex="col", sharey="row")
    axes = sheet.axes
    for r, (title, values) in enumerate(rows):
        top = np.nanpercentile(np.abs(values), 99.8) if np.isfinite(values).any() else 1.0
        for ax, s in zip(axes[r], segments, strict=True):
            own = segment == s
            for low, high, element in windows.get(int(s), ()):
                ax.axvspan(low, high, color=COLOURS[elements.index(element) % len(COLOURS)], lw=0.8, alpha=0.55,
                           zorder=0)
            ax.plot(wavelength[own], values[own], "-", color=BLACK, lw=0.35, zorder=2)
            ax.set_xlim(wavelength[own][0], wavelength[own][-1])
            _few_ticks(ax)
            ax.locator_params(axis="y", nbins=4)
        axes[r, 0].set_ylim(-1.15 * top, 1.15 * top) if np.nanmin(values) < 0 else axes[r, 0].set_ylim(0, 1.15 * top)
        axes[r, 0].set_ylabel(title, size=7)
    if not elements:
        sheet.below(WAVELENGTH)
    else:
        from matplotlib.patches import Patch

        for ax in axes[-1]:
            ax.set_xlabel(WAVELENGTH, labelpad=2)
        sheet.legend([Patch(color=COLOURS[k % len(COLOURS)], alpha=0.55, label=e) for k, e in enumerate(elements)])
    return sheet.figure


def heat_map(panels, mock, text):
    """Numbers on a grid, 1 in the middle of the colours: panels [(title, row names, column names, values)]."""
    from matplotlib.colors import TwoSlopeNorm

    heights = [max(len(p[1]), 3) for p in panels]
    sheet = _Sheet(0.17 * sum(heights) / len(panels), mock, len(panels), 1, left=1.15, bottom=0.25, top=0.25, hgap=0.45,
                   bar=True, height_ratios=heights)
    axes, norm, mesh = sheet.axes, TwoSlopeNorm(1.0, 0.5, 2.0), None
    for ax, (title, row_names, column_names, values) in zip(axes[:, 0], panels, strict=True):
        mesh = ax.imshow(np.ma.masked_invalid(values), norm=norm, cmap="PuOr", aspect="auto")
        ax.set_yticks(range(len(row_names)), row_names)
        ax.set_xticks(range(len(column_names)), column_names)
        ax.tick_params(length=0)
        ax.set_title(title, loc="left", pad=3)
        for (r, c), value in np.ndenumerate(values):
            if np.isfinite(value):
                ax.text(c, r, f"{value:.2f}", ha="center", va="center_baseline", size=6.5,
                        color="white" if value > 1.6 or value < 0.62 else BLACK)
    sheet.colour_bar(mesh, text, extend="both", ticks=[0.5, 0.75, 1.0, 1.5, 2.0], extendfrac=0.02)
    return sheet.figure


def bars(names, values, texts, x_text, mock):
    """Horizontal bars with a number at each: what quality cuts removed."""
    sheet = _Sheet(0.22 * len(names), mock, left=0.25 + 0.068 * max(len(n) for n in names), bottom=0.62)
    ax = sheet.axes[0, 0]
    y = np.arange(len(names))[::-1]
    for k, (series, colour) in enumerate(zip(values, (SKY, BLUE), strict=False)):
        ax.barh(y, series[0], height=0.75 - 0.3 * k, color=colour, label=series[1], zorder=2 + k)
    for place, text, value in zip(y, texts, values[0][0], strict=True):
        ax.text(value, place, f" {text}", va="center", ha="left", size=7)
    ax.set_yticks(y, names)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, 1.18 * max([*values[0][0], 1]))
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlabel(x_text, labelpad=2)
    sheet.legend(ax.get_legend_handles_labels()[0])
    return sheet.figure


def two_spectra(rows, mock):
    """Figures A4, A5: rows of (wavelength, first, second, template or None, names, text, [(species, wavelengths)] of
    candidate lines, wavelengths of features), one per range of wavelength."""
    shares = [0.12 * max(len(row[6]), 1) + 0.04 for row in rows]
    heights = [h for share in shares for h in (1.32, 0.88, share)]
    sheet = _Sheet(sum(heights) / len(heights), mock, 3 * len(rows), 1, left=0.7, hgap=0.16, height_ratios=heights)
    for k, (x, first, second, template, names, text, marks, features) in enumerate(rows):
        top, bottom, below = sheet.axes[3 * k : 3 * k + 3, 0]
        top.plot(x, first, "-", color=BLUE, lw=0.6, label=names[0])
        top.plot(x, second, "-", color=RED, lw=0.6, label=names[1])
        top.set_ylabel("flux")
        top.legend(loc="lower left", ncols=2, borderpad=0.1)
        bottom.plot(x, second - first, "-", color=GREEN, lw=0.6, label=f"{names[1]} minus {names[0]}")
        if template is not None:
            bottom.plot(x, template, "-", color=BLACK, lw=0.6, label=names[2])
        bottom.axhline(0, color="0.5", lw=0.4)
        bottom.set_ylabel("difference")
        _numbers(bottom, text)
        bottom.legend(loc="upper left", ncols=2, borderpad=0.1)
        for ax, low_share, high_share in ((top, 0.25, 0.05), (bottom, 0.35, 0.35)):     # room for legends and numbers
            lines = np.concatenate([line.get_ydata() for line in ax.get_lines()])
            low, high = np.nanpercentile(lines, [0.2, 99.8])     # spikes of bad pixels run out of the panel
            ax.set_ylim(low - low_share * (high - low), high + high_share * (high - low))
        for r, (_, places) in enumerate(marks):
            below.vlines(places, r - 0.35, r + 0.35, color=BLACK, lw=0.5)
        below.set_yticks(range(len(marks)), [name for name, _ in marks])
        below.set_ylim(max(len(marks), 1) - 0.4, -0.6)
        below.tick_params(axis="y", length=0)
        for ax in (top, bottom, below):
            for place in features:
                ax.axvline(place, color="0.85", lw=2.0, zorder=0)
            ax.set_xlim(x[0], x[-1])
            ax.tick_params(labelbottom=ax is below)
    sheet.below(WAVELENGTH)
    return sheet.figure
