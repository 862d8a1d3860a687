"""The model of many GPUs: its formulas where the answer is known."""

import argparse
import math
import statistics
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import device_mesh, fsdp

from benchmarks import cluster
from benchmarks.cluster import Hardware, Step
from fcmae.models import FCMAE, ModelConfig
from fcmae.training.sharding import shard


def test_parameters_are_those_that_are_trained() -> None:
    count = sum(parameter.numel() for parameter in FCMAE(ModelConfig(name="convnextv2_atto")).parameters())
    assert cluster.parameters("convnextv2_atto") == count
    assert cluster.checkpoint_bytes("convnextv2_atto") == 12 * count


def test_a_ring_sends_twice_the_bytes_of_all_but_one() -> None:
    """2(n − 1)/n · bytes / bandwidth, and a latency for each of 2(n − 1) rounds; one process exchanges nothing."""
    assert cluster.ring_seconds(1e9, 1, 1e9, 1e-3) == 0
    assert cluster.ring_seconds(1e9, 2, 1e9, 0) == pytest.approx(1)
    assert cluster.ring_seconds(1e9, 1000, 1e9, 0) == pytest.approx(2 * 0.999)
    assert cluster.ring_seconds(0, 5, 1e9, 1e-3) == pytest.approx(8e-3)


def test_nodes_exchange_what_their_gpus_have_shared_out() -> None:
    hardware = Hardware(bandwidth=1e9, inside=1e12, per_node=8, latency=0)
    inside = cluster.exchange_seconds(8e9, 8, hardware)
    assert inside == pytest.approx(2 * 7 / 8 * 8e-3)
    assert cluster.exchange_seconds(8e9, 16, hardware) == pytest.approx(inside + 1.0)  # an eighth each, two nodes
    assert cluster.sharded_seconds(8e9, 16, hardware) == pytest.approx(1.5 * (inside + 1.0))


def test_the_slowest_of_many() -> None:
    """The mean of a log-normal for one; for two also known: 2 exp(σ²/2) Φ(σ/√2)."""
    assert cluster.slowest(1, 0.0) == pytest.approx(1)
    assert cluster.slowest(1, 0.3, draws=100_000) == pytest.approx(math.exp(0.045), rel=0.01)
    two = 2 * math.exp(0.045) * statistics.NormalDist().cdf(0.3 / math.sqrt(2))
    assert cluster.slowest(2, 0.3, draws=100_000) == pytest.approx(two, rel=0.01)
    assert cluster.slowest(1024, 0.05) > cluster.slowest(8, 0.05)


def test_the_best_interval_loses_the_least() -> None:
    """Young's √(2 δ M) to first order; a quarter and four times lose more, in the formula and in the simulation."""
    write, between = 60.0, 20_000.0
    best = cluster.best_interval(write, between)
    assert best == pytest.approx(math.sqrt(2 * write * between), rel=0.1)

    def simulated(every: int) -> float:
        step, steps = best / 8, 3000
        runs = [cluster.whole_time(steps, step, every, write, 0.0, between, seed)[0] for seed in range(40)]
        return statistics.mean(runs) / (steps * step) - 1

    for other, every in ((best / 4, 2), (best * 4, 32)):
        assert cluster.waste(write, other, 0, between) > cluster.waste(write, best, 0, between)
        assert simulated(every) > simulated(8)
    assert simulated(8) == pytest.approx(cluster.waste(write, best, 0, between), rel=0.25)


def test_a_run_without_failures_takes_its_steps_and_checkpoints() -> None:
    assert cluster.whole_time(10, 2.0, 4, 1.0, 5.0, 1e12, seed=0) == (23.0, 0, 0)  # after 4, 8 and 10


def test_a_failure_costs_the_start_and_the_steps_since_the_checkpoint() -> None:
    seconds, again, failures = cluster.whole_time(200, 1.0, 10, 0.0, 3.0, 50.0, seed=1)
    assert failures > 1
    assert 200 + again + 3 * failures < seconds < 200 + again + 4 * failures + 1  # and a part of a step each
    assert 0 < again < 10 * failures


def test_fsdp_exchanges_float32(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Half as much again as DDP: where the network is divided, no policy of another type is set."""
    policies: list[object] = []
    monkeypatch.setattr(fsdp, "fully_shard", lambda module, mesh, mp_policy=None: policies.append(mp_policy))
    monkeypatch.setattr(device_mesh, "init_device_mesh", lambda kind, shape: None)
    accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=2)
    shard(FCMAE(ModelConfig(name="convnextv2_atto")), accelerator)  # type: ignore[arg-type]
    assert set(policies) == {None}
    args = argparse.Namespace(models=["convnextv2_tiny"], gpus=[8, 64], batch=4096)
    cluster.print_tables(args, Hardware(latency=0))
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[-3:] if line]
    assert [[cell.strip() for cell in row][1:3] for row in rows] == [["tiny", "8"], ["tiny", "64"]]
    for row in rows:
        assert float(row[-2]) == pytest.approx(1.5 * float(row[-3]), abs=0.15)


def test_a_small_share_of_a_batch_takes_no_less_than_the_launches() -> None:
    assert cluster.with_batch(Step(128, 0.032, ""), 64).seconds == pytest.approx(0.016)
    assert cluster.with_batch(Step(128, 0.032, ""), 1).seconds == cluster.LEAST_STEP
