"""Feature collapse of networks, block by block, as a command (``fcmae collapse``) and as a function.

    from fcmae.collapse import collapse

    result = collapse(["mine=runs/mine", "convnext_atto"], data="images/", output="collapse")
    result.networks["mine"].blocks[0].distance

Draws the paper's figure 4 (cosine distance of the channels against depth, a line for each network) and figure 3
(channels as small maps, dead and saturated ones marked), and writes the numbers. docs/collapse.md explains them.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fcmae.analysis.collapse_file import NUMBERS, TABLE, write_collapse
from fcmae.analysis.tap_names import Tap
from fcmae.cli.command import end, exit_status, output_folder, say
from fcmae.cli.keywords import keyword_function
from fcmae.cli.parser import parse
from fcmae.config import check_least, check_seed
from fcmae.config.pixels import ImagesConfig, PixelConfig
from fcmae.errors import UserError
from fcmae.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fcmae.analysis.collapse_networks import NetworkCollapse

logger = logging.getLogger("fcmae")

PROG = "python -m fcmae.collapse"
FIGURE, MAPS = "figure4.png", "feature_maps-{}.png"
EARLY_MIDDLE_LATE = ("0.17", "0.5", "0.83")


@dataclass(frozen=True)
class CollapseDataConfig(PixelConfig, ImagesConfig):
    """The images."""

    num_workers: int = 0
    """Processes that read images; 0: the main process reads them."""

    def __post_init__(self) -> None:
        ImagesConfig.__post_init__(self)
        PixelConfig.__post_init__(self)
        check_least(self, num_workers=0)


@dataclass(frozen=True)
class CollapseConfig:
    """Measure feature collapse, block by block.

    For each block: the cosine distance of its channels (ConvNeXt V2, figure 4), dead and saturated channels, and
    pictures of channels (figure 3).
    """

    models: tuple[str, ...] = field(metadata={"metavar": "[LABEL=]MODEL"})
    """Run folder, checkpoint folder or weights file, or a timm name (random weights unless pretrained); LABEL names its
    line."""
    data: CollapseDataConfig = field(default_factory=CollapseDataConfig, metadata={"bare": "path"})
    images: int = 1000
    """Maximum number of images: the same number from each subfolder (class), evenly spaced."""
    output: str = "collapse"
    """Folder for the table and the figures."""
    overwrite: bool = False
    """Replace the results of an earlier analysis in that folder."""
    tap: Tap = "act"
    """Tensor of each block: output of the expansion layer, after the activation, after GRN (without GRN: after the
    activation), or of the block (always for blocks without an MLP, such as ResNet's)."""
    sparse: bool = False
    """Analyze runs of fcmae.pretrain as the masked sparse network that was trained, at its mask ratio. Otherwise, and
    for timm names, the network is dense and everything is visible."""
    pretrained: bool = False
    """Give timm names the weights that timm has (downloads them)."""
    allow_pickle: bool = False
    """Unpickle whatever a weights file holds. This runs code from the file; only for files that you trust."""
    use_ema: bool = True
    """Where a weights file has weights and their average over the steps (EMA), take the average; false: the others."""
    effective_rank: bool = False
    """Measure the effective rank too; takes longer."""
    img_size: int | None = None
    """Side of the images in pixels. Unset: a run's own, that of timm networks which take one size only, else 224
    (weights with a stem of stride 1 or 2: 56 or 112)."""
    layers: tuple[str, ...] = EARLY_MIDDLE_LATE
    """Blocks to draw channels of: names as in the table, or depths from 0 to 1. Names that a model lacks are skipped
    for it."""
    picture: int = 0
    """Which of the images to draw, from 0."""
    batch_size: int = 16
    """Images per batch; does not change results."""
    seed: int = 0
    """Seed of random weights and of masks."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, …; auto: the accelerator if there is one."""

    def __post_init__(self) -> None:
        check_least(self, images=1, batch_size=1, img_size=1, picture=0)
        check_seed(self.seed)


@dataclass(frozen=True)
class CollapseResult:
    """What was measured, and where it was written."""

    networks: "dict[str, NetworkCollapse]"
    """By label, in the order given."""
    folder: Path
    """Holds collapse.csv, collapse.json, figure4.png and feature_maps-LABEL.png."""


@keyword_function(CollapseConfig)
def collapse(config: CollapseConfig) -> CollapseResult:
    """Measure feature collapse of networks, block by block; writes the numbers and the figures.

    The settings are keywords (``data="images/"`` is ``data.path``), which :class:`CollapseConfig` explains;
    a whole ``CollapseConfig`` is accepted too.

    Raises:
        UserError: a wrong setting, weights or images that cannot be read, results that would be overwritten.
    """
    from fcmae.analysis.names import parse_names
    from fcmae.data.folder import images_to_look_at

    names = parse_names(config.models)
    ours = (TABLE, NUMBERS, FIGURE, *(MAPS.format(named.file_name) for named in names))
    folder = output_folder(config.output, ours, config.overwrite)
    paths = images_to_look_at(config.data.path, config.images, config.data.access)
    if config.picture >= len(paths):
        raise UserError(f"--picture {config.picture}: there are {len(paths)} images, 0 to {len(paths) - 1}")

    # here, because these imports take seconds
    from fcmae.analysis.collapse_networks import (
        Measuring,
        NetworkCollapse,
        analyze_network,
        depth_figure,
        layers_of_each,
        load_checked,
    )
    from fcmae.analysis.subjects import LoadOptions
    from fcmae.cli.devices import choose_device

    device = choose_device(config.device)

    # All networks are checked before the first is analyzed, which may take an hour. They wait in the CPU's memory, and
    # leave it one by one.
    options = LoadOptions(
        sparse=config.sparse, pretrained=config.pretrained, allow_pickle=config.allow_pickle, use_ema=config.use_ema,
        img_size=config.img_size, seed=config.seed, pixels=config.data,
    )  # fmt: skip
    subjects = {named.label: load_checked(named, config.tap, options) for named in names}
    layers = layers_of_each(subjects, config.layers)
    measuring = Measuring(
        paths, config.tap, config.layers, config.picture, config.effective_rank, config.batch_size,
        config.data.num_workers, config.seed,
    )  # fmt: skip

    found: dict[str, NetworkCollapse] = {}
    for named in names:
        subject = subjects.pop(named.label)
        subject.model.to(device)
        found[named.label], picture = analyze_network(named, subject, layers[named.label], measuring)
        (folder / FIGURE).unlink(missing_ok=True)  # an earlier analysis's; ours comes when all networks are through
        _write(folder, found, config)
        _draw(folder / MAPS.format(named.file_name), picture)
        logger.info("%s: analyzed, %d of %d", named.label, len(found), len(names))
    _draw(folder / FIGURE, depth_figure(list(found.values()), config.tap))
    return CollapseResult(found, folder)


def _write(folder: Path, found: "dict[str, NetworkCollapse]", config: CollapseConfig) -> None:
    """The numbers of the networks that are through."""
    described = {
        label: {
            "source": one.source,
            "image_hw": list(one.image_hw),
            "visible_share": one.visible_share,
            "random_weights": one.has_random_weights,
            "pixels": one.pixels,
        }
        for label, one in found.items()
    }
    settings = {name: getattr(config, name) for name in ("tap", "sparse", "pretrained", "seed")}
    rows = {label: one.blocks for label, one in found.items()}
    write_collapse(folder, rows, described, {"data_path": config.data.path} | settings)


def _draw(file: Path, picture: "Figure | None") -> None:
    """Replace a picture in one go; without one, an earlier analysis's is removed."""
    if picture is None:
        file.unlink(missing_ok=True)
        return
    with replacing(file) as temporary:
        picture.savefig(temporary, format="png")


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command line; returns the exit status: 0, or 1 after an error."""
    return exit_status(prog, lambda: _show(collapse(parse(CollapseConfig, argv, prog))))


def _show(result: CollapseResult) -> None:
    from fcmae.analysis.collapse_table import collapse_table

    for network in result.networks.values():
        say(collapse_table(network) + "\n")
    names = (TABLE, NUMBERS, FIGURE, MAPS.format("*"))
    logger.info("written: %s", ", ".join(str(result.folder / name) for name in names))


if __name__ == "__main__":
    end(main())
