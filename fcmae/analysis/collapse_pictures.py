"""The figures of the collapse analysis: distance against depth (the paper's figure 4) and feature maps (figure 3)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from fcmae.analysis.feature_maps import FeatureMaps
from fcmae.runs.utf8_path import readable

DEAD, SATURATED, MASKED = "#e41a1c", "#ff9800", "#c8c8c8"
DOTS_PER_INCH = 150
MARKERS, DASHES = "os^Dv<>P*X", ("-", "--", "-.", ":")  # overlapping lines stay visible through the gaps
FONT = 12  # points; the figures are at most 8 inches wide, so a phone shows letters of about 8 pixels
GAP = 0.12  # between maps, as a fraction of a map's width


def depth_axes(figure: Figure) -> Axes:
    """Axes of figure 4: cosine distance against normalized depth."""
    axes = figure.add_subplot()
    axes.set_xlabel("depth (0: first block, 1: last)", fontsize=FONT)
    axes.set_ylabel("feature cosine distance", fontsize=FONT)
    axes.tick_params(labelsize=FONT - 1)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(0, 0.52)  # the maximum is 1/2
    axes.grid(alpha=0.3)
    return axes


def distance_figure(lines: Mapping[str, Sequence[tuple[float, float, float]]], title: str) -> Figure:
    """Cosine distance against depth, one line per model.

    Args:
        lines: label → (depth, distance, half the height of the band around it) of each block.
        title: title of the figure.
    """
    figure = Figure(figsize=(6, 4.4 + 0.27 * len(lines)), dpi=DOTS_PER_INCH, layout="constrained")
    axes = depth_axes(figure)
    axes.set_title(title, fontsize=FONT)
    for number, (label, points) in enumerate(lines.items()):
        depth, distance, error = np.array(points).T
        marker, dash = MARKERS[number % len(MARKERS)], DASHES[number % len(DASHES)]
        (line,) = axes.plot(
            depth, distance, marker=marker, linestyle=dash, markersize=4, linewidth=1.5, label=readable(label)
        )
        axes.fill_between(depth, distance - error, distance + error, color=line.get_color(), alpha=0.2, linewidth=0)
    figure.legend(loc="outside lower center", fontsize=FONT, frameon=False, ncols=1)
    return figure


def feature_map_figure(label: str, image: Tensor, layers: Sequence[FeatureMaps]) -> Figure:
    """An image and one panel per block with its channels' maps, in two columns; each block has one color scale.

    Args:
        label: label of the model.
        image: [C, H, W] in 0 … 1; with more than three channels the first three are shown, with two the first.
        layers: feature maps to draw.
    """
    rows = math.ceil((1 + len(layers)) / 2)
    figure = Figure(figsize=(8, 0.9 + 4.9 * rows), dpi=DOTS_PER_INCH, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12)  # type: ignore[union-attr, call-arg]
    figure.suptitle(readable(label), fontsize=FONT + 2)
    first, *panels = figure.subplots(rows, 2, squeeze=False).flat
    for empty in panels[len(layers) :]:
        empty.set_axis_off()
    panels = panels[: len(layers)]
    shown = (image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)).nan_to_num(0.0)
    first.imshow(shown.permute(1, 2, 0).clamp(0, 1).numpy())
    first.set_title("image", fontsize=FONT)
    first.set_axis_off()
    for axes, layer in zip(panels, layers, strict=True):
        _draw_maps(axes, layer)
    handles = [
        Line2D([], [], marker="s", linestyle="", markersize=10, markerfacecolor="none", markeredgewidth=2,
               markeredgecolor=color, label=name)
        for color, name in ((DEAD, "dead"), (SATURATED, "saturated (constant)"))
    ]  # fmt: skip
    if any(layer.maps.isnan().any() for layer in layers):
        handles.append(Line2D([], [], marker="s", linestyle="", markersize=10, color=MASKED, label="masked"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=FONT, frameon=False)
    return figure


def _draw_maps(axes: Axes, layer: FeatureMaps) -> None:
    maps = layer.maps.numpy()
    count, height, width = maps.shape
    columns = math.ceil(math.sqrt(count))
    low, high = np.nanpercentile(maps, (1, 99))
    colors = colormaps["viridis"].with_extremes(bad=MASKED)
    aspect = height / width
    for number, (each, dead, saturated) in enumerate(zip(maps, layer.dead, layer.saturated, strict=True)):
        left, top = number % columns * (1 + GAP), number // columns * (aspect + GAP)
        box = (left, left + 1, top + aspect, top)
        axes.imshow(each, cmap=colors, vmin=low, vmax=high, extent=box, interpolation="nearest")
        if dead or saturated:
            color = DEAD if dead else SATURATED
            axes.add_patch(Rectangle((left, top), 1, aspect, fill=False, edgecolor=color, linewidth=1.8))
    axes.set_xlim(-GAP, columns * (1 + GAP))
    axes.set_ylim(math.ceil(count / columns) * (aspect + GAP), -GAP)
    axes.set_axis_off()
    axes.set_title(
        f"{layer.layer} ({layer.tap}), {height}×{width}\n{count} of {layer.channels} channels; of all:\n"
        f"distance {layer.distance:.3f}, dead {layer.dead_share:.1%},\nsaturated {layer.saturated_share:.1%}",
        fontsize=FONT,
    )
