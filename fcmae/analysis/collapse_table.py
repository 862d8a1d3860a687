"""A collapse analysis as text."""

import math

from fcmae.analysis.collapse_networks import NetworkCollapse


def collapse_table(network: NetworkCollapse) -> str:
    """Text table of one network, one row per block."""
    height, width = network.image_hw
    share = network.visible_share
    seen = "everything visible" if share == 1 else f"{100 * share:.3g}% of the patches visible"
    seen += ", random weights" if network.has_random_weights else ""
    ranked = network.blocks[0].effective_rank is not None
    head = f"{'block':<20}{'depth':>7}{'tap':>11}{'channels':>10}{'distance':>17}{'dead':>8}{'saturated':>11}"
    lines = [
        f"{network.label}: {network.blocks[0].images} images of {height}×{width}, {seen}",
        head + ("    rank" if ranked else ""),
    ]
    for row in network.blocks:
        line = f"{row.layer:<20}{row.depth:>7.2f}{row.tap:>11}{row.channels:>10}"
        error = "–" if math.isnan(row.distance_se) else f"{row.distance_se:.4f}"
        line += f"{row.distance:>8.3f} ± {error:<6}{row.dead:>8.1%}{row.saturated:>11.1%}"
        lines.append(line + (f"{row.effective_rank:>8.1f}" if ranked else ""))
    return "\n".join(lines) + "\n"
