"""Ends runs at random moments and in every way, resumes them, and compares their losses with those never disturbed.

    python -m benchmarks.kills --events 100 [--task finetune] [--processes 1 2] [--torchrun] [--source tars] [--seed 0]

Events: kill -9 of a training process, of a data loading process or of torchrun; SIGTERM to one or all; an allocation
that fails in a training process or in a data loading process. After each, no process but torchrun itself may be left
after 10 seconds, and there may be no traceback. When a run has ended, its losses, scores and weights (the averaged and
the best, too) must equal the undisturbed run's bit for bit, and it must have the same pictures, classes and exports.
The events are divided among the numbers of processes.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import psutil
from PIL import Image
from safetensors.torch import load_file

from benchmarks.faults import end_with
from benchmarks.kills_training import TRIGGER, Forked

TO_END = 10.0  # seconds
TO_START = 120.0  # seconds until a resumed run has done a step, on a busy machine
EVENTS = ["kill training", "kill loading", "term training", "term all", "memory training", "memory loading"]
LAUNCHER_EVENTS = ["kill launcher", "term launcher"]
EPOCHS = 10  # of 3 steps
OPTIONS = {
    "pretrain": "--model.backend {backend} --train.parallel {parallel} --model.stem_stride 1 --model.decoder_dim 16 "
    "--log.pictures_every 5 --log.checkpoint_every 2",
    "finetune": "scratch --config few_labels --data.val_share 0.25 --train.ema 0.9 --augment.mixup 0.8 "
    "--augment.rand_augment rand-m9-mstd0.5-inc1 --augment.random_erasing 0.25",
}
ENDED_BEFORE = "ended before"

Started = subprocess.Popen | Forked


class Trial:
    """Runs of one kind, all with the same losses."""

    def __init__(self, folder: Path, processes: int, args: argparse.Namespace) -> None:
        self.folder, self.processes, self.torchrun = folder, processes, args.torchrun
        self.random = random.Random(args.seed)
        self.kinds, self.steps = args.kinds, 3 * args.epochs
        self.trigger = folder / "trigger"
        self.slowest = dict[str, float]()
        images = folder / "images"
        for number in range(16 if args.task == "finetune" else 12):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
            place = images / f"class{number % 2}" if args.task == "finetune" else images
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number:02}.png")
        source = images if args.source == "folder" else pack(images, folder / "shards")
        options = OPTIONS[args.task].format(backend=args.backend, parallel=args.parallel)
        common = (
            f"--data.path {source} --model.img_size 32 --train.epochs {args.epochs} "
            f"--train.batch_size {4 // processes} --train.warmup_epochs 1 --train.base_lr 0.05 "
            f"--model.drop_path_rate 0.1 --data.num_workers {2 // processes} --log.every 1"
        )
        self.args = f"{args.task} {options} {common}".split()

    def start(self, run: Path) -> Started:
        """Processes that train into ``run``, with a log beside it."""
        for file in self.folder.glob("trigger-*"):
            file.unlink()
        args, log = [*self.args, "--output", str(run)], log_of(run)
        log.write_bytes(b"")
        if not self.torchrun:
            return Forked(args, self.processes, log, self.trigger)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}"]
        env = os.environ | {"OMP_NUM_THREADS": "1", TRIGGER: str(self.trigger), "CUDA_VISIBLE_DEVICES": ""}
        with log.open("w") as opened:
            command = [*launcher, "-m", "benchmarks.kills_training", *args]
            return subprocess.Popen(command, stdout=opened, stderr=opened, env=env, start_new_session=True)

    def alive(self, started: Started) -> list[psutil.Process]:
        """The processes of the run, wherever they went, by age."""
        found = []
        for process in psutil.process_iter():
            try:
                if isinstance(started, Forked):
                    ours = os.getsid(process.pid) in started.pids
                else:
                    ours = process.environ().get(TRIGGER) == str(self.trigger)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return sorted(found, key=lambda process: (process.create_time(), process.pid))

    def disturb(self, run: Path) -> tuple[str, str]:
        """One event at a random moment of a resumed run: what it was, and what was wrong afterwards ("": nothing)."""
        lines, process = count_lines(run), self.start(run)
        if self.random.random() < 0.8:  # in the training; the others anywhere
            limit = time.monotonic() + TO_START
            while process.poll() is None and count_lines(run) <= lines:
                time.sleep(0.01)
                if time.monotonic() > limit:
                    return "no event", f"no step in {TO_START:g} s; {self.judge('no event', process, run)}"
            time.sleep(self.random.random() * 2)
        else:
            time.sleep(self.random.random() * (20 if self.torchrun else 4))
        event = self.random.choice(self.kinds)
        if process.poll() is not None:
            said = log_of(run).read_text()[-1500:]
            return ENDED_BEFORE, "" if process.returncode == 0 else f"status {process.returncode}: {said}"
        victims = self.victims(event, process)
        if event.startswith("memory"):
            self.exhaust(event, process, run)
        for one in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL if event.startswith("kill") else signal.SIGTERM)
        if victims or event.startswith("memory"):
            return event, self.judge(event, process, run)
        return ENDED_BEFORE, "" if process.wait() == 0 else f"status {process.returncode}"  # no loading process yet

    def victims(self, event: str, process: Started) -> list[psutil.Process]:
        """The processes that a signal goes to."""
        family = self.alive(process)
        launcher = process.pid if isinstance(process, subprocess.Popen) else os.getpid()
        training = [one for one in family if parent(one) == launcher]
        loading = [one for one in family if parent(one) in [other.pid for other in training]]
        rank = self.random.randrange(self.processes)
        return {
            "training": training[rank : rank + 1], "loading": loading[:1], "all": family,
            "launcher": [one for one in family if one.pid == launcher],
        }[event.split()[1]] if not event.startswith("memory") else []  # fmt: skip

    def exhaust(self, event: str, process: Started, run: Path) -> None:
        """Let an allocation fail, and wait for it: the event is the next step or image, not this moment."""
        rank = self.random.randrange(self.processes)
        Path(f"{self.trigger}-{'loading' if 'loading' in event else f'training{rank}'}").touch()
        limit = time.monotonic() + TO_START
        while process.poll() is None and "error:" not in log_of(run).read_text() and time.monotonic() < limit:
            time.sleep(0.02)

    def judge(self, event: str, process: Started, run: Path) -> str:
        """What is wrong after an event."""
        start, left = time.monotonic(), self.alive(process)
        while (process.poll() is None or left) and time.monotonic() < start + TO_END:
            time.sleep(0.05)
            left = self.alive(process)
        status, log = process.poll(), log_of(run).read_text(errors="replace")
        self.slowest[event] = max(self.slowest.get(event, 0.0), time.monotonic() - start)
        parents = {one.pid: parent(one) for one in left}
        if isinstance(process, subprocess.Popen):  # torchrun itself may take longer
            left = [one for one in left if one.pid != process.pid]
            try:
                status = process.wait(TO_START)
            except subprocess.TimeoutExpired:
                process.kill()
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
        if left or status is None:
            what = ", ".join(f"{one.pid} child of {parents[one.pid]}" for one in left)
            return f"left after {TO_END:g} s: {what}; {log[-1500:]}"
        # torchrun adds a traceback of its own
        return f"a traceback: {log[-1500:]}" if "Traceback" in log and not self.torchrun else ""


def pack(images: Path, shards: Path) -> Path:
    """Two tars that hold the images by turns; returns their pattern."""
    shards.mkdir()
    for number in range(2):
        with tarfile.open(shards / f"{number}.tar", "w") as tar:
            for file in sorted(images.iterdir())[number::2]:
                tar.add(file, file.name)
    return shards / "{0..1}.tar"


def log_of(run: Path) -> Path:
    """The file with what the processes of a run said last."""
    return run.with_suffix(".log")


def parent(process: psutil.Process) -> int:
    """Its number; 0 if the process is gone."""
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return 0


def count_lines(run: Path) -> int:
    """Lines of metrics.jsonl, those set aside included."""
    files = [run / "metrics.jsonl", run / "metrics.superseded.jsonl"]
    return sum(file.read_bytes().count(b"\n") for file in files if file.is_file())


def last_checkpoint(run: Path) -> str:
    """The name of the newest; "" if there is none."""
    saved = run / "checkpoints" / "last"
    return saved.read_text().strip() if saved.is_file() else ""


def outcome(run: Path) -> dict[str, object]:
    """What must be the same however often a run was disturbed."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    checkpoints, weights = run / "checkpoints", dict[str, bytes]()
    for folder in (checkpoints / last_checkpoint(run), checkpoints / "best"):
        for file in folder.glob("*.safetensors"):
            found = load_file(file)
            weights |= {f"{folder.name} {file.name} {name}": found[name].numpy().tobytes() for name in found}
    scores = run / "validation" / "scores.json"
    return {
        "losses": [(line["step"], line.get("loss"), line.get("val_loss"), line.get("val_top1")) for line in lines],
        "weights": weights,
        "classes": (run / "classes.json").read_bytes() if (run / "classes.json").exists() else b"",
        "exports": {str(file.relative_to(run)): file.read_bytes() for file in run.glob("export/*/*")},
        "pictures": {file.name for file in run.glob("reconstructions/*")},
        "mistakes": scores.read_bytes() if scores.exists() else b"",
    }


def trial(folder: Path, events: int, processes: int, args: argparse.Namespace) -> list[str]:
    """Disturb runs this many times; prints each event and returns what was wrong."""
    one = Trial(folder, processes, args)
    whole = folder / "whole"
    if one.start(whole).wait() != 0:
        return [f"undisturbed: {log_of(whole).read_text()[-2000:]}"]
    expected, wrong, seen, number, started = outcome(whole), list[str](), Counter[str](), 0, time.monotonic()
    while seen.total() - seen[ENDED_BEFORE] < events:
        run = folder / f"run{number}"
        event, fault = one.disturb(run)
        seen[event] += 1
        at = last_checkpoint(run)
        print(f"{seen.total()}: {event}, {at or 'no checkpoint'} {fault}", flush=True)
        faults = [f"{event}: {fault}"] if fault else []
        done = event == ENDED_BEFORE or at == f"step-{one.steps:08d}"
        if done or seen.total() - seen[ENDED_BEFORE] == events:
            if (status := one.start(run).wait()) != 0:
                faults.append(f"not resumed: status {status}, {log_of(run).read_text()[-500:]}")
            else:
                now = outcome(run)
                faults += [f"{run}: other {name}" for name in expected if now[name] != expected[name]]
            if not faults:
                shutil.rmtree(run)
            number += 1
        wrong += faults
    slowest = ", ".join(f"{name} {seconds:.1f}" for name, seconds in sorted(one.slowest.items()))
    print(
        f"{seen.total()} events in {number} runs of {processes} process(es), {time.monotonic() - started:.0f} s: "
        f"{dict(seen)}; slowest end in seconds: {slowest}; {len(wrong)} wrong",
        flush=True,
    )
    return wrong


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--task", default="pretrain", choices=OPTIONS)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], choices=[1, 2])
    parser.add_argument("--torchrun", action="store_true", help="start them with torchrun, which takes longer")
    parser.add_argument("--kinds", nargs="+", help="kinds of events; default: all", choices=EVENTS + LAUNCHER_EVENTS)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each run, in 3 steps each")
    parser.add_argument("--source", choices=["folder", "tars"], default="folder", help="what holds the images")
    parser.add_argument("--parallel", choices=["ddp", "fsdp"], default="ddp")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.task == "finetune" and (args.parallel, args.backend) != ("ddp", "auto"):
        parser.error("--task finetune takes neither --parallel nor --backend")
    args.kinds = args.kinds or EVENTS + (LAUNCHER_EVENTS if args.torchrun else [])
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    wrong = []
    for number, processes in enumerate(args.processes):
        events = (args.events + number) // len(args.processes)
        wrong += trial(folder / str(processes), events, processes, args)
    end_with(wrong, folder)


if __name__ == "__main__":
    main()
