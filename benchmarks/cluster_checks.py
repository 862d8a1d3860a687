"""Predictions of benchmarks.cluster next to what was measured here, on the cores of one machine.

Each prediction is made from smaller cases than the one that is measured. Times are the shortest of several, because
the machine may be busy; steps that are done again are counted.
"""

import os
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import multiprocessing

from benchmarks.cluster import ring_seconds, whole_time
from benchmarks.input_pipeline import make_jpegs
from benchmarks.kills import count_lines, last_checkpoint
from benchmarks.kills_training import TRIGGER, Forked, _free_port
from fcmae.config import DataConfig
from fcmae.data.folder import image_files
from fcmae.data.loader import make_loader
from fcmae.data.samples import PretrainDataset
from fcmae.data.stream import SampleStream
from fcmae.models import FCMAE, ModelConfig
from fcmae.runs import checkpoint as ckpt

MB = 1_000_000
Row = list[str]


def compared(what: str, predicted: float, measured: float, unit: str = "ms", factor: float = 1e3) -> Row:
    """A row: prediction, measurement, and by how much the prediction is off."""
    error = predicted / measured - 1
    return [what, f"{factor * predicted:.3g} {unit}", f"{factor * measured:.3g} {unit}", f"{error:+.0%}"]


def line_through(one: tuple[float, float], other: tuple[float, float]) -> Callable[[float], float]:
    """The line through two points (x, y), its value at 0 not below 0."""
    slope = (other[1] - one[1]) / (other[0] - one[0])
    start = max(one[1] - slope * one[0], 0.0)
    return lambda x: start + slope * x


def all_checks() -> list[Row]:
    """Every comparison; takes a few minutes on a quiet machine."""
    torch.set_num_threads(1)
    return [*failures(), *exchange(), *checkpoints(), *decoding()]  # forks come first


def _reduce(rank: int, processes: int, port: int, sizes: list[int], repeats: int, file: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=processes)
    found = []
    for size in sizes:
        gradients, seconds = torch.ones(size // 4), []
        for _ in range(repeats + 1):
            torch.distributed.barrier()
            start = time.perf_counter()
            torch.distributed.all_reduce(gradients)
            seconds.append(time.perf_counter() - start)
        found.append(min(seconds[1:]))
    if rank == 0:
        torch.save(found, file)
    torch.distributed.destroy_process_group()


def reduce_seconds(processes: int, sizes: list[int], repeats: int = 9) -> dict[int, float]:
    """Bytes → seconds of gloo's all-reduce."""
    with tempfile.NamedTemporaryFile() as file:
        args = (processes, _free_port(), sizes, repeats, file.name)
        multiprocessing.spawn(_reduce, args, nprocs=processes)
        return dict(zip(sizes, torch.load(file.name), strict=True))


def exchange() -> list[Row]:
    """All-reduce by bytes, from two sizes to others; and by processes, from two to four."""
    small, large = 1 * MB, 16 * MB
    two = reduce_seconds(2, [small, 4 * MB, large, 64 * MB])
    line = line_through((small, two[small]), (large, two[large]))
    rows = [
        compared(f"gloo all-reduce of {size // MB} MB, 2 processes, from 1 and 16 MB", line(size), two[size])
        for size in (4 * MB, 64 * MB)
    ]
    # the processes of one machine share its memory: n of them together move n times what each sends
    shared = 2 * large / max(two[large] - line(0), 1e-6)  # bytes/s of both together; each sends its tensor once
    predicted = ring_seconds(large, 4, shared / 4, line(0) / 2)
    four = reduce_seconds(4, [large])
    return [*rows, compared("the same of 16 MB, 4 processes, from 2 (sharing the memory)", predicted, four[large])]


def checkpoints() -> list[Row]:
    """Seconds of a checkpoint by its bytes, from two sizes to a third."""

    def seconds(name: str) -> tuple[float, float]:
        config = ModelConfig(name=name)
        model = FCMAE(config)
        optimizer = torch.optim.AdamW(model.parameters())
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        found = []
        for _ in range(5):
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                ckpt.save_checkpoint(Path(folder), model, asdict(config), optimizer, ckpt.TrainState(1, 1, 1))
                found.append(time.perf_counter() - start)
        return 12.0 * sum(p.numel() for p in model.parameters()), min(found)

    line = line_through(seconds("convnextv2_atto"), seconds("convnextv2_nano"))
    size, measured = seconds("convnextv2_tiny")
    return [compared(f"a checkpoint of {size / 1e6:.0f} MB, from atto's and nano's", line(size), measured)]


def decoding() -> list[Row]:
    """Images/s with loading processes, from the processor seconds of an image in this one."""
    with tempfile.TemporaryDirectory() as name:
        make_jpegs(Path(name), (500, 375), 90)
        files = image_files(Path(name))

        def load(workers: int, steps: int) -> tuple[float, float]:
            data = DataConfig(num_workers=workers)
            dataset = PretrainDataset(files, data, ModelConfig(img_size=224), 0.6, seed=0)
            stream = SampleStream(len(dataset), batch_size=8, total_steps=steps)
            batches = iter(make_loader(dataset, stream, pin_memory=False))
            for _ in range(4):  # processes start, and fill their queues
                next(batches)
            start, clock = time.perf_counter(), time.process_time()
            count = sum(len(batch.image) for batch in batches)  # and the processes end
            return count / (time.perf_counter() - start), (time.process_time() - clock) / count

        def processor_of(workers: int) -> float:
            """Processor seconds of an image in loading processes: more images, less their start."""
            few, many = (children_seconds(lambda steps=steps: load(workers, steps)) for steps in (10, 40 * workers))
            return (many - few) / (8 * (40 * workers - 10))

        processor = min(load(0, 12)[1] for _ in range(4))
        rows = []
        for workers in (1, 2):
            predicted = min(workers, os.cpu_count() or 1) / processor
            measured = max(load(workers, 40 * workers)[0] for _ in range(4))
            what = f"images/s of {workers} loading process{'es' * (workers > 1)}, from processor time in one"
            rows.append(compared(what, predicted, measured, "images/s", 1))
            what = f"processor time of an image in {workers} loading process{'es' * (workers > 1)}, from that in one"
            rows.append(compared(what, processor, processor_of(workers)))
        return rows


def children_seconds(work: Callable[[], object]) -> float:
    """Processor seconds of the processes that end meanwhile."""
    before = os.times()
    work()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def failures(kills: int = 12, every: int = 10, epochs: int = 60) -> list[Row]:
    """A run that is killed at random, from an undisturbed one: its seconds, and the steps that it does again."""
    folder = Path(tempfile.mkdtemp(prefix="cluster-"))  # no context: a fork that ends would leave it, too
    make_jpegs(folder, (48, 48), 90)
    args = (
        f"--data.path {folder / 'all'} --model.img_size 32 --model.stem_stride 1 --model.decoder_dim 16 "
        f"--train.epochs {epochs} --train.batch_size 4 --train.base_lr 0.05 --data.num_workers 0 --log.every 1 "
        f"--log.pictures_every 0 --log.keep_checkpoints 2"
    ).split()
    images = len(list((folder / "all").iterdir()))
    per_epoch = images / 4
    args += ["--log.checkpoint_every", str(max(1, round(every / per_epoch)))]
    os.environ[TRIGGER] = str(folder / "trigger")

    def start(run: Path) -> Forked:
        return Forked(["pretrain", *args, "--output", str(run)], 1, folder / "log", folder / "trigger")

    def first_step(run: Path, running: Forked, lines: int) -> None:
        while running.poll() is None and count_lines(run) <= lines:
            time.sleep(0.005)

    calm = folder / "calm"
    begun, running = time.perf_counter(), start(calm)
    first_step(calm, running, 0)
    startup = time.perf_counter() - begun
    assert running.wait() == 0, (folder / "log").read_text()[-2000:]
    seconds = time.perf_counter() - begun - startup
    steps = int(last_checkpoint(calm).removeprefix("step-"))
    apart = max(1, round(every / per_epoch)) * per_epoch
    between = seconds / (kills / 2)  # of training; the run grows by what is done again

    # as the runs are: the time of a checkpoint is part of the mean step, and a kill comes while steps are done
    step, every = seconds / steps, round(apart)
    simulated = [whole_time(steps, step, every, 0.0, startup, between, seed) for seed in range(400)]
    again_per_kill = statistics.mean(again for _, again, _ in simulated) / statistics.mean(
        failed for _, _, failed in simulated
    )

    draw, disturbed, killed = np.random.default_rng(0), folder / "killed", 0
    begun, running = time.perf_counter(), start(disturbed)
    first_step(disturbed, running, 0)
    begun = time.perf_counter()
    while running.poll() is None:
        limit = time.perf_counter() + draw.exponential(between)
        while running.poll() is None and time.perf_counter() < limit:
            time.sleep(0.005)
        if running.poll() is None and killed < 4 * kills:
            os.kill(running.pids[0], signal.SIGKILL)
            running.wait()
            killed += 1
            lines = count_lines(disturbed)
            running = start(disturbed)
            first_step(disturbed, running, lines)
    took = time.perf_counter() - begun
    assert running.wait() == 0, (folder / "log").read_text()[-2000:]
    again = count_lines(disturbed) - steps
    # of as many failures as there were: their number alone varies by its root
    alike = [total for total, _, failed in simulated if failed == killed]
    predicted = statistics.mean(alike) if alike else statistics.mean(total for total, _, _ in simulated)
    found = [
        compared(f"steps done again per kill, a checkpoint every {apart:g} of {steps}, {killed} kills",
                 again_per_kill, again / max(killed, 1), "steps", 1),
        compared(f"seconds of that run, from {startup:.1f} s to start and {seconds:.1f} s to train",
                 predicted, took, "s", 1),
    ]  # fmt: skip
    shutil.rmtree(folder)
    return found
