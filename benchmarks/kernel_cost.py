"""What the Triton kernels cost, read from their machine code. No GPU is needed: Triton compiles for any without one.

python -m benchmarks.kernel_cost --model convnextv2_tiny --batch-size 128 --arch 90 --markdown

A model predicts the time on an H100: the longer of two, the time to issue the instructions (a loop's as often as it
runs) and the time to read each input and write each output once. It knows nothing of latencies, caches and launches.
With --check, spills or a loop that is longer than the limits end in exit status 1.
"""

import dataclasses
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from benchmarks import timing
from fcmae.models.fcmae import count_visible, random_visible
from fcmae.models.sizes import SIZES
from fcmae.sparse.backends.triton import depthwise, gelu_grn, gelu_grn_kernels, grn_weights, norm, patches
from fcmae.sparse.backends.triton.depthwise_kernels import neighbors_kernel, slide_kernel, wgrad_kernel
from fcmae.sparse.backends.triton.grn_mlp import MANY_SITES
from fcmae.sparse.backends.triton.launch import Launch, interpreting
from fcmae.sparse.sites import ActiveSites

BYTES_PER_SECOND = 2.97e12  # an H100's copy from device to device
WARP_INSTRUCTIONS_PER_SECOND = 33.5e12 / 32  # and what it issues, one FFMA for each of 32 lanes being one
PATCH, SIZE = 32, 7
ARCHITECTURES = (80, 89, 90, 100)
LIMITS = {("forward", 8): 2.6, ("forward", 4): 2.6, ("wgrad", 8): 3.5, ("wgrad", 4): 3.5}
"""Most instructions of the inner loop per FFMA on sm_90, in bf16."""
INTEGERS = ("patches_ptr", "slot_ptr", "table_ptr", "near_ptr", "count_ptr")
WIDE = ("rows_ptr", "p_ptr", "w2_ptr", "x_ptr", "dy_ptr", "dx_ptr", "out_ptr", "h_ptr", "g_ptr", "y_ptr", "dh_ptr")
"""Pointers to features; the others are to float32."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One kernel at one shape."""

    name: str
    side: int
    channels: int
    launch: Launch
    loops: float
    """How often the loop runs in a program, on average."""
    asked: int
    """Bytes of features, weights and sums that its loads and stores ask the caches for."""
    least: int
    """The same with each value read or written once."""
    tensors: int = 0
    """How many tensors of features it reads or writes, each in tiles; 0: not in tiles, and ``asked`` is an estimate."""
    tensor_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Cost:
    """What the machine code says."""

    name: str
    side: int
    channels: int
    arch: int
    registers: int
    spills: int
    instructions: int
    loop: int
    """Instructions of the loop; 0: there is none."""
    ffma: int
    """FFMA among them, or among all where there is no loop."""
    asked: int
    least: int
    tensors: int
    passes: int
    """Loads and stores of tiles of features: one for each tensor, if each value is read or written once."""
    issue_us: float
    bytes_us: float

    @property
    def per_ffma(self) -> float | None:
        """Instructions of the loop per FFMA."""
        return (self.loop or self.instructions) / self.ffma if self.ffma else None

    @property
    def over_limit(self) -> bool:
        """Whether it spills, or its loop is longer than it may be."""
        limit = LIMITS.get((self.name, self.side)) if self.arch == 90 else None
        return self.spills > 0 or (limit is not None and (self.per_ffma or 0) > limit)


def make_cases(dims: tuple[int, ...], grid: int, visible: int, batch: int, width: int) -> list[Case]:
    """All kernels at the shapes of a network's stages; ``width`` in bytes is that of a feature."""
    sites = ActiveSites(random_visible(batch, (grid, grid), visible))
    cases = [_neighbors(sites), *_pixels(sites, width)]
    for side, channels in zip((8, 4, 2, 1)[-len(dims) :], dims, strict=True):
        cases += [*_depthwise(sites, side, channels, width), *_layer_norm(sites.num_sites(side), side, channels, width)]
        cases += _gelu_grn(sites, side, channels, width)
    return cases


def decoder_cases(dim: int, grid: int, batch: int, width: int) -> list[Case]:
    """The kernels of a decoder's block, which computes every patch."""
    sites = ActiveSites.full(batch, grid, grid)
    cases = [*_depthwise(sites, 1, dim, width), *_layer_norm(sites.num_sites(1), 1, dim, width)]
    return [
        dataclasses.replace(case, name=f"decoder {case.name}") for case in [*cases, *_gelu_grn(sites, 1, dim, width)]
    ]


def _table(sites: ActiveSites, reach: int) -> Tensor:
    """The table that neighbors_kernel makes, plainly: bool [N, D, D], whether there is a patch at each offset."""
    padded = torch.nn.functional.pad(sites.visible, (reach,) * 4)
    windows = padded.unfold(1, 2 * reach + 1, 1).unfold(2, 2 * reach + 1, 1)
    return windows[sites.visible]


def _neighbors(sites: ActiveSites) -> Case:
    number, reach = sites.patches.numel(), SIZE // 2
    constants = {
        "K": sites.num_visible, "HEIGHT": sites.height, "WIDTH": sites.width, "D": 2 * reach + 1, "BLOCK": 64, "P": 8,
    }  # fmt: skip
    moved = 4 * (sites.visible.numel() + number * (2 + 3 * (2 * reach + 1) ** 2))
    return Case("neighbors", 1, 0, Launch(neighbors_kernel, (triton.cdiv(number, 8),), constants, 4), 0, moved, moved)


def _pixels(sites: ActiveSites, width: int) -> list[Case]:
    """Of float32 images of three channels, with a stem of stride 4."""
    image, masked = (3, PATCH * sites.height, PATCH * sites.width), sites.complement()
    values = [3 * PATCH**2 * chosen.patches.numel() for chosen in (sites, masked)]
    shapes = [(sites.batch_size, chosen.num_visible) for chosen in (sites, masked)]
    stem = patches.stem_rows_launch(shapes[0], image, PATCH // 4, 4)
    target = patches.patch_pixels_launch(shapes[1], image, PATCH, normalize=True)
    return [
        Case("stem rows", 8, 3, stem, 0, values[0] * (4 + width), values[0] * (4 + width)),
        Case("target pixels", 1, 3, target, 0, values[1] * 16, values[1] * 8),
    ]


def _depthwise(sites: ActiveSites, side: int, channels: int, width: int) -> list[Case]:
    there = _table(sites, triton.cdiv(SIZE // 2, side))
    number, reach, half = len(there), there.shape[1] // 2, SIZE // 2
    column = torch.tensor([(i - half) // side + reach for i in range(side + SIZE - 1)]).bincount()
    row = torch.tensor([(y + k - half) // side + reach for y in range(side) for k in range(SIZE)]).bincount()
    window = int((there.sum(0) * row[:, None] * column).sum()) * channels * width
    features, taps = number * side * side * channels * width, SIZE * SIZE * channels * 4
    launch = depthwise.convolve_launch(number, channels, side, SIZE, True, False)
    if launch.kernel is slide_kernel:
        loops: float = SIZE
        asked = window + features + launch.grid[0] * taps
    else:
        counts = there.flatten(1).sum(1)
        groups = counts.split(launch.constants["P"])
        loops = sum(int(group.max()) for group in groups) / len(groups)
        pairs = int(counts.sum())
        asked = features + pairs * channels * (side * side * width + (2 * side - 1) ** 2 * 4)
    wgrad, per_program = depthwise.wgrad_launch(number, channels, side, SIZE)
    sums = 2 * wgrad.grid[0] * (taps + 4 * channels)
    return [
        Case("forward", side, channels, launch, loops, asked, 2 * features + taps),
        Case("wgrad", side, channels, wgrad, per_program * side, window + features + sums, 2 * features + sums),
    ]


def _layer_norm(rows: int, side: int, channels: int, width: int) -> list[Case]:
    values = rows * channels * width
    forward, (backward, steps) = norm.forward_launch(rows, channels), norm.backward_launch(rows, channels)
    moved, moved_back = 2 * values + 8 * rows, 3 * values + 8 * rows + 16 * backward.grid[0] * channels
    return [
        Case("LayerNorm", side, channels, forward, 0, moved, moved, 2, values),
        Case("LayerNorm backward", side, channels, backward, steps, moved_back, moved_back, 3, values),
    ]


def _gelu_grn(sites: ActiveSites, side: int, dim: int, width: int) -> list[Case]:
    """The passes that the MLP makes at this stage: with GRN in the weights, or by kernel."""
    rows, hidden = sites.num_sites(side), 4 * dim
    tiles = gelu_grn.tiling(rows, hidden, sites.batch_size)
    values, statistics = rows * hidden * width, 4 * sites.batch_size * hidden
    sums, loops = 2 * statistics * tiles.parts, tiles.constants["STEPS"]
    in_weights = rows >= MANY_SITES * sites.batch_size * dim

    def case(name: str, launch: Launch, loops: int, tensors: int, others: int) -> Case:
        moved = tensors * values + others
        return Case(name, side, hidden, launch, loops, moved, moved, tensors, values)

    kernels = gelu_grn_kernels
    cases = [
        case("GELU", tiles.wide(kernels.gelu_kernel), loops, 2, sums),
        case("GRN statistics", tiles.of_images(kernels.scale_kernel), tiles.parts, 0, sums // 2 + 2 * statistics),
        case(
            "GRN statistics backward",
            tiles.of_images(kernels.through_kernel),
            tiles.parts,
            0,
            sums // 2 + 4 * statistics,
        ),
        case("GELU backward", tiles.wide(kernels.gelu_grad_kernel, SCALED=in_weights), loops, 3, sums),
    ]
    if in_weights:
        launch, per_program = grn_weights.weights_grad_launch(sites.batch_size, dim, hidden)
        weights = hidden * dim * (width * (sites.batch_size + 1) + 4 * launch.grid[0]) + 2 * statistics
        cases.append(Case("GRN weights backward", side, hidden, launch, per_program, weights, weights, 2))
    else:
        cases += [
            case("GRN", tiles.wide(kernels.grn_kernel), loops, 2, statistics),
            case("GRN sums backward", tiles.wide(kernels.grn_sums_kernel), loops, 2, 2 * sums),
        ]
    return cases


def read(case: Case, arch: int, dtype: str = "bf16", usage_only: bool = False) -> Cost:
    """Compile for an architecture, take the machine code apart, count.

    ``usage_only`` leaves out the instructions, whose disassembly takes longer than compiling: 0 instructions, no loop,
    and in ``spills`` the bytes of a thread's stack, which hold what is spilled.
    """
    kernel = case.launch.kernel
    names = kernel.arg_names
    signature = {name: _type(name, kernel, case, dtype) for name in names}
    # addresses that torch gives are multiples of 16 bytes; without this, Triton reads value by value
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name.endswith("_ptr")}
    source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=case.launch.constants, attrs=aligned)
    target = triton.backends.compiler.GPUTarget("cuda", arch, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": case.launch.num_warps})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(compiled.asm["cubin"])
        registers, stack = _usage(file)
        operations, loop = ([], None) if usage_only else _disassemble(file)
    spills = stack if usage_only else sum(o in ("STL", "LDL") for o in operations)
    inside = operations[loop] if loop else []
    counts = Counter(inside or operations)
    tile = rf"tt\.(?:load|store) .*tensor<\d+x\d+x!tt\.ptr<{dtype.replace('fp', 'f')}>"
    passes = len(re.findall(tile, compiled.asm["ttgir"]))
    asked = case.asked + (passes - case.tensors) * case.tensor_bytes
    programs = 1
    for n in case.launch.grid:
        programs *= n
    executed = (len(operations) + len(inside) * (case.loops - 1 if loop else 0)) * programs * case.launch.num_warps
    return Cost(
        case.name, case.side, case.channels, arch, registers, spills, len(operations),
        len(inside), counts["FFMA"], asked, case.least, case.tensors, passes,
        1e6 * executed / WARP_INSTRUCTIONS_PER_SECOND, 1e6 * case.least / BYTES_PER_SECOND,
    )  # fmt: skip


def _type(name: str, kernel: Any, case: Case, dtype: str) -> str:
    if name in case.launch.constants:
        return "constexpr"
    if not name.endswith("_ptr"):
        return "fp32" if name == "eps" else "i32"
    if name == "order_ptr":
        return "*i64"
    if name in INTEGERS:
        return "*i32"
    return f"*{dtype}" if name in WIDE and not (name == "out_ptr" and kernel is wgrad_kernel) else "*fp32"


def _usage(cubin: Path) -> tuple[int, int]:
    """Registers of a thread, and bytes of its stack and local memory."""
    said = _tool("cuobjdump", "-res-usage", cubin)
    return int(re.findall(r"REG:(\d+)", said)[0]), sum(map(int, re.findall(r"(?:STACK|LOCAL):(\d+)", said)))


def _tool(name: str, option: str, cubin: Path) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([tool, option, cubin], capture_output=True, text=True, check=True).stdout


def _disassemble(cubin: Path) -> tuple[list[str], slice | None]:
    """Operations in order, and which of them are the loop with the most FFMA."""
    labels: dict[str, int] = {}
    operations: list[str] = []
    loops: list[slice] = []
    for line in _tool("nvdisasm", "-c", cubin).splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(operations)
        if found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)([^;]*);", line):
            if found[1] == "NOP":
                continue
            operations.append(found[1])
            to = re.search(r"\.L_x_\d+", found[2])
            if found[1] == "BRA" and to and to[0] in labels and labels[to[0]] < len(operations) - 1:
                loops.append(slice(labels[to[0]], len(operations)))
    return operations, max(loops, key=lambda loop: operations[loop].count("FFMA"), default=None)


def read_all(jobs: list[tuple[Case, int]], dtype: str, processes: int, usage_only: bool = False) -> list[Cost]:
    """:func:`read` of every case and architecture, in several processes, which inherit what cannot be pickled."""
    global _jobs
    _jobs = [(*job, dtype, usage_only) for job in jobs]
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        return pool.map(_read_job, range(len(_jobs)), chunksize=1)


_jobs: list[tuple[Case, int, str, bool]] = []


def _read_job(number: int) -> Cost:
    return read(*_jobs[number])


HEADERS = (
    "kernel", "s", "channels", "registers", "spills", "loop", "per FFMA", "MiB asked", "MiB least", "issue µs",
    "bytes µs", "predicted µs",
)  # fmt: skip


def as_row(cost: Cost) -> tuple[str, ...]:
    """One line of the table."""
    per_ffma = f"{cost.per_ffma:.2f}" if cost.per_ffma and cost.name.split()[-1] in ("forward", "wgrad") else "–"
    return (
        cost.name, str(cost.side), str(cost.channels or "–"), str(cost.registers), str(cost.spills),
        str(cost.loop or "–"), per_ffma, *(f"{n / 2**20:.1f}" for n in (cost.asked, cost.least)),
        *(f"{us:.1f}" for us in (cost.issue_us, cost.bytes_us, max(cost.issue_us, cost.bytes_us))),
    )  # fmt: skip


def table(costs: list[Cost], markdown: bool) -> str:
    """For a terminal, or for docs/benchmarks.md."""
    rows = [HEADERS, *(as_row(cost) for cost in costs)]
    if markdown:
        rows.insert(1, ("---",) * len(HEADERS))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADERS))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main() -> int:
    """Command line."""
    parser = timing.batch_options(__doc__)
    parser.set_defaults(batch_size=128)
    parser.add_argument("--model", default="convnextv2_tiny", choices=SIZES)
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "fp16", "fp32"))
    parser.add_argument("--arch", type=int, nargs="+", default=[90], help=f"compute capabilities: {ARCHITECTURES}")
    parser.add_argument("--kernels", nargs="+", help="only kernels such as wgrad, or at a side: 'wgrad 4'")
    parser.add_argument("--sides", type=int, nargs="+", default=[8, 4, 2, 1], help="only these numbers of sites")
    parser.add_argument("--decoder", type=int, metavar="WIDTH", help="also the kernels of a decoder of this width")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--usage-only", action="store_true", help="registers, spills and passes only, in half the time")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a kernel spills or exceeds its limit")
    args = parser.parse_args()
    if unknown := [arch for arch in args.arch if arch not in ARCHITECTURES]:
        parser.error(f"--arch takes {', '.join(map(str, ARCHITECTURES))}, got {', '.join(map(str, unknown))}")
    for name in ("batch_size", "processes", "decoder"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if args.img_size < PATCH or args.img_size % PATCH:
        parser.error(f"--img-size must be a multiple of {PATCH}, got {args.img_size}")
    if interpreting():
        raise SystemExit("TRITON_INTERPRET is set: the interpreter makes no machine code; unset it")
    torch.manual_seed(0)
    grid = args.img_size // PATCH
    visible, width = count_visible(grid * grid, args.mask_ratio), 4 if args.dtype == "fp32" else 2
    found = make_cases(SIZES[args.model].dims, grid, visible, args.batch_size, width)
    if args.decoder is not None:
        found += decoder_cases(args.decoder, grid, args.batch_size, width)
    cases = [
        case
        for case in found
        if case.side in args.sides
        and (not args.kernels or any(part in f"{case.name} {case.side}" for part in args.kernels))
    ]
    costs = read_all(
        [(case, arch) for arch in args.arch for case in cases], args.dtype, args.processes, args.usage_only
    )
    for arch in args.arch:
        of_arch = [cost for cost in costs if cost.arch == arch]
        if args.json:
            print("\n".join(json.dumps(dataclasses.asdict(c) | {"over_limit": c.over_limit}) for c in of_arch))
        else:
            print(f"sm_{arch}, {args.dtype}, {args.model}, batch {args.batch_size}, {visible} of {grid * grid} patches")
            print(table(of_arch, args.markdown))
    return int(args.check and any(cost.over_limit for cost in costs))


if __name__ == "__main__":
    sys.exit(main())
