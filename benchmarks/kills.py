"""Ends runs at random moments and in every way, resumes them, and compares their losses with those never disturbed.

    python -m benchmarks.kills --events 100 [--processes 2 [--torchrun]] [--seed 0]

Events: kill -9 of a training process, of a data loading process or of torchrun; SIGTERM to one or all; an allocation
that fails in a training process or in a data loading process. After each, no process may be left after 10 seconds, and
there may be no traceback. When a run has ended, its losses must equal the undisturbed run's bit for bit, and it must
have the same pictures. Training processes are forked, because importing torch takes longer than the training.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

import fcmae.pretrain  # noqa: F401  # before any fork

TO_END = 10.0  # seconds
EVENTS = ["kill training", "kill loading", "term training", "term all", "memory training", "memory loading"]
LAUNCHER_EVENTS = ["kill launcher", "term launcher"]
STEPS = 60
# Trains as the command does, and runs out of memory once the file that the variable names is there
SCRIPT = """
import os, sys, torch
import fcmae.data.samples as samples, fcmae.pretrain as pretrain, fcmae.training.loop as loop
get, step = samples.PretrainDataset.__getitem__, loop._train_step
def load(self, key):
    if os.path.exists(os.environ["KILLS_TRIGGER"] + "-loading"): bytearray(2**60)
    return get(self, key)
def train(*args):
    if os.path.exists(os.environ["KILLS_TRIGGER"] + "-training" + os.environ.get("RANK", "0")): torch.empty(2**50)
    return step(*args)
samples.PretrainDataset.__getitem__, loop._train_step = load, train
if __name__ == "__main__": sys.exit(pretrain.main(sys.argv[1:]))
"""


class Forked:
    """Training processes without a launcher, each a fork of this one in a session of its own."""

    def __init__(self, args: list[str], processes: int, log: Path, trigger: Path) -> None:
        self.left, self.returncode, port = set[int](), 0, free_port()
        self.sessions = set[int]()
        for rank in range(processes):
            pid = os.fork()
            if pid == 0:
                os.setsid()
                descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if rank else os.O_TRUNC))
                os.dup2(descriptor, 1), os.dup2(descriptor, 2)
                os.environ |= {"KILLS_TRIGGER": str(trigger), "CUDA_VISIBLE_DEVICES": ""}
                if processes > 1:
                    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
                                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
                namespace = {"__name__": "train"}
                exec(SCRIPT, namespace)
                sys.exit(namespace["pretrain"].main(args))  # type: ignore[attr-defined]
            self.left.add(pid)
            self.sessions.add(pid)

    def poll(self) -> int | None:
        """The largest exit status once all have ended, 128 + signal for a signal."""
        for pid in list(self.left):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.left.remove(pid)
                code = os.waitstatus_to_exitcode(status)
                self.returncode = max(self.returncode, 128 - code if code < 0 else code)
        return None if self.left else self.returncode

    def wait(self) -> int:
        """Wait for all to end."""
        while self.poll() is None:
            time.sleep(0.02)
        return self.returncode


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Trial:
    """Runs of one kind, all with the same losses."""

    def __init__(self, folder: Path, processes: int, seed: int, torchrun: bool) -> None:
        self.folder, self.processes, self.random, self.torchrun = folder, processes, random.Random(seed), torchrun
        self.script, self.trigger = folder / "train.py", folder / "trigger"
        self.script.write_text(SCRIPT)
        images = folder / "images"
        images.mkdir()
        for number in range(12):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"{number}.png")
        self.args = (
            f"--data.path {images} --model.img_size 32 --model.stem_stride 1 --model.decoder_dim 16 --train.epochs 20 "
            f"--train.batch_size {4 // processes} --train.warmup_epochs 1 --train.base_lr 0.05 "
            f"--model.drop_path_rate 0.1 --data.num_workers {2 // processes} --log.every 1 "
            "--log.pictures_every 5 --log.checkpoint_every 2"
        ).split()

    def start(self, run: Path) -> "subprocess.Popen | Forked":
        """A process that trains into ``run``, with a log beside it."""
        args = [*self.args, "--output", str(run)]
        if not self.torchrun:
            return Forked(args, self.processes, run.with_suffix(".log"), self.trigger)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}"]
        env = os.environ | {"OMP_NUM_THREADS": "1", "KILLS_TRIGGER": str(self.trigger), "CUDA_VISIBLE_DEVICES": ""}
        with run.with_suffix(".log").open("w") as log:
            return subprocess.Popen(
                [*launcher, str(self.script), *args], stdout=log, stderr=log, env=env, start_new_session=True
            )

    def alive(self, started: "subprocess.Popen | Forked") -> list[psutil.Process]:
        """The processes of the run, wherever they went, by age."""
        found = []
        for process in psutil.process_iter():
            try:
                if isinstance(started, Forked):
                    ours = os.getsid(process.pid) in started.sessions
                else:
                    ours = process.environ().get("KILLS_TRIGGER") == str(self.trigger)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return sorted(found, key=lambda process: (process.create_time(), process.pid))

    def disturb(self, run: Path) -> tuple[str, str]:
        """One event at a random moment of a resumed run: what it was, and what was wrong afterwards ("": nothing)."""
        for file in self.folder.glob("trigger-*"):
            file.unlink()
        lines, process = count_lines(run), self.start(run)
        if self.random.random() < 0.8:  # in the training; the others anywhere
            while process.poll() is None and count_lines(run) <= lines:
                time.sleep(0.01)
            time.sleep(self.random.random() * 2)
        else:
            time.sleep(self.random.random() * (20 if self.torchrun else 4))
        event = self.random.choice(EVENTS + (LAUNCHER_EVENTS if self.torchrun else []))
        if process.poll() is not None:
            return "ended before", "" if process.returncode == 0 else f"status {process.returncode}"
        what, victim = event.split()
        rank = self.random.randrange(self.processes)
        family = self.alive(process)
        launcher = process.pid if isinstance(process, subprocess.Popen) else os.getpid()
        training = [one for one in family if parent(one) == launcher]
        loading = [one for one in family if parent(one) in [other.pid for other in training]]
        chosen = {
            "training": training[rank : rank + 1], "loading": loading[:1], "all": family,
            "launcher": [one for one in family if one.pid == launcher],
        }[victim]  # fmt: skip
        if what == "memory":
            Path(f"{self.trigger}-{victim}{rank if victim == 'training' else ''}").touch()
            limit = time.monotonic() + TO_END  # the event is the next step or image, not this moment
            while process.poll() is None and "error:" not in run.with_suffix(".log").read_text():
                if time.monotonic() > limit:
                    break
                time.sleep(0.02)
        for one in chosen if what != "memory" else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL if what == "kill" else signal.SIGTERM)
        return event, self.judge(process, run) if chosen else ""

    def judge(self, process: "subprocess.Popen | Forked", run: Path) -> str:
        """What is wrong after an event."""
        limit, left = time.monotonic() + TO_END, self.alive(process)
        while (left or process.poll() is None) and time.monotonic() < limit:
            time.sleep(0.1)
            left = self.alive(process)
        status, log = process.poll(), run.with_suffix(".log").read_text(errors="replace")
        for one in left:
            one.kill()
        process.wait()
        if left or status is None:
            return f"{len(left)} processes left after {TO_END:g} s"
        # torchrun adds a traceback of its own
        return f"a traceback: {log[-1500:]}" if "Traceback" in log and not self.torchrun else ""


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


def losses(run: Path) -> list[tuple[int, float]]:
    """(step, loss) of each line."""
    return [(line["step"], line["loss"]) for line in map(json.loads, (run / "metrics.jsonl").open())]


def trial(folder: Path, events: int, processes: int, seed: int, torchrun: bool) -> list[str]:
    """Disturb runs this many times; prints each event and returns what was wrong."""
    one = Trial(folder, processes, seed, torchrun)
    whole = folder / "whole"
    assert one.start(whole).wait() == 0, whole.with_suffix(".log").read_text()
    expected, wrong, seen, number = losses(whole), list[str](), Counter[str](), 0
    pictures = {file.name for file in (whole / "reconstructions").iterdir()}
    while seen.total() - seen["ended before"] < events:
        run = folder / f"run{number}"
        event, fault = one.disturb(run)
        seen[event] += 1
        saved = run / "checkpoints" / "last"
        at = saved.read_text().strip() if saved.is_file() else "no checkpoint"
        print(f"{seen.total()}: {event}, {at} {fault}", flush=True)
        if fault:
            wrong.append(f"{event}: {fault}")
        done = event == "ended before" or (saved.is_file() and saved.read_text().strip() == f"step-{STEPS:08d}")
        if done or seen.total() - seen["ended before"] == events:
            for file in folder.glob("trigger-*"):
                file.unlink()
            if (status := one.start(run).wait()) != 0:
                wrong.append(f"not resumed: status {status}, {run.with_suffix('.log').read_text()[-500:]}")
            elif losses(run) != expected:
                wrong.append(f"{run.name}: other losses")
            elif {file.name for file in (run / "reconstructions").iterdir()} != pictures:
                wrong.append(f"{run.name}: other pictures")
            if not wrong:
                shutil.rmtree(run)
            number += 1
    print(f"{seen.total()} events in {number} runs of {processes} process(es): {dict(seen)}; {len(wrong)} wrong")
    return wrong


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1, choices=[1, 2])
    parser.add_argument("--torchrun", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    wrong = trial(folder, args.events, args.processes, args.seed, args.torchrun)
    for line in wrong:
        print("FAULT", line)
    if not wrong:
        shutil.rmtree(folder)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
