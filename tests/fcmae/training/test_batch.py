"""How an optimizer step is divided into micro-batches, and which learning rates are worth a warning."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcmae.cli.pretrain_parser import parse_config
from fcmae.config import TrainConfig
from fcmae.errors import UserError
from fcmae.training.batch import Batch, divide_batch, largest_divisor, learning_rate_advice, peak_learning_rate


def not_asked() -> int:
    raise AssertionError("the size follows from the settings; no memory needs measuring")


def error_of(train: TrainConfig, num_processes: int) -> str:
    with pytest.raises(UserError) as error:
        divide_batch(train, num_processes, not_asked)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_without_an_effective_batch_it_is_size_times_steps_times_processes() -> None:
    assert divide_batch(TrainConfig(), 1, not_asked) == Batch(64, 1, 1)
    assert divide_batch(TrainConfig(batch_size=8), 2, not_asked, recorded=4) == Batch(8, 1, 2)
    assert divide_batch(TrainConfig(accumulation_steps=3), 2, not_asked).effective == 64 * 3 * 2


@pytest.mark.parametrize(
    ("settings", "num_processes", "expected"),
    [
        ({"batch_size": 64}, 1, Batch(64, 64, 1)),
        ({"batch_size": 64}, 2, Batch(64, 32, 2)),
        ({"batch_size": 4096}, 1, Batch(4096, 1, 1)),
        ({"accumulation_steps": 4}, 2, Batch(512, 4, 2)),
        ({"batch_size": 64, "accumulation_steps": 32}, 2, Batch(64, 32, 2)),
    ],
)
def test_the_effective_batch_decides_what_is_unset(
    settings: dict[str, int], num_processes: int, expected: Batch
) -> None:
    assert divide_batch(TrainConfig(effective_batch=4096, **settings), num_processes, not_asked) == expected
    assert expected.effective == 4096


@given(st.integers(1, 5000), st.integers(1, 8), st.integers(1, 600))
def test_an_unset_size_is_the_largest_divisor_that_fits(share: int, num_processes: int, memory: int) -> None:
    batch = divide_batch(TrainConfig(effective_batch=share * num_processes), num_processes, lambda: memory)
    assert batch.effective == share * num_processes
    assert 1 <= batch.size <= memory
    assert not any(share % size == 0 for size in range(batch.size + 1, min(share, memory) + 1))


def test_a_resumed_run_keeps_its_size_if_it_can() -> None:
    train = TrainConfig(effective_batch=4096)
    assert divide_batch(train, 2, not_asked, recorded=128) == Batch(128, 16, 2)
    for useless in (100, 0, None, "64", 8192):
        assert divide_batch(train, 2, lambda: 64, recorded=useless) == Batch(64, 32, 2)


@given(
    st.integers(1, 300), st.integers(1, 40), st.integers(1, 4), st.sampled_from(["batch_size", "accumulation_steps"])
)
def test_what_does_not_divide_is_one_line_whose_values_work(wanted: int, value: int, processes: int, name: str) -> None:
    train = TrainConfig(effective_batch=wanted, **{name: value})  # type: ignore[arg-type]
    if wanted % (value * processes) == 0:
        assert divide_batch(train, processes, not_asked).effective == wanted
        return
    message = error_of(train, processes)
    assert f"--train.effective_batch {wanted} is not a multiple of {value * processes}" in message
    advice = message.partition("; take ")[2]
    flags = re.findall(r"--train\.(\w+) (\d+)(?: or (\d+))?", advice)
    assert flags[0][0] == "effective_batch"
    for flag, *values in flags:
        for number in filter(None, values):
            settings = {"effective_batch": wanted, name: value} | {flag: int(number)}
            assert divide_batch(TrainConfig(**settings), processes, not_asked).effective == settings["effective_batch"]


def test_messages_name_the_nearest_values() -> None:
    assert error_of(TrainConfig(effective_batch=100, batch_size=16), 2) == (
        "--train.effective_batch 100 is not a multiple of 32 (--train.batch_size 16 × 2 processes); "
        "take --train.effective_batch 96 or 128, or --train.batch_size 10 or 25"
    )
    assert error_of(TrainConfig(effective_batch=4), 3) == (
        "--train.effective_batch 4 is not a multiple of 3 (3 processes); take --train.effective_batch 3 or 6"
    )
    assert "take --train.effective_batch 64, or --train.batch_size 16" in error_of(
        TrainConfig(effective_batch=16, batch_size=64), 1
    )


def test_a_contradiction_is_one_line() -> None:
    message = error_of(TrainConfig(effective_batch=4096, batch_size=64, accumulation_steps=4), 2)
    product = "--train.batch_size 64 × --train.accumulation_steps 4 × 2 processes = 512"
    assert message.startswith(f"--train.effective_batch is 4096, but {product}; leave one of them out")


def test_largest_divisor() -> None:
    assert [largest_divisor(12, limit) for limit in (1, 2, 5, 6, 11, 12, 99)] == [1, 2, 4, 6, 6, 12, 12]


@pytest.mark.parametrize(
    "arguments", [["--config", "pretrain"], ["--config", "demo"], ["--config", "pretrain", "--train.base_lr", "3e-4"]]
)
def test_recipes_get_no_learning_rate_warning(arguments: list[str]) -> None:
    train = parse_config(arguments).train
    assert learning_rate_advice(train, divide_batch(train, 1, lambda: 64).effective) is None


@pytest.mark.parametrize("effective_batch", [256, 512, 1024, 2048, 4096, 8192, 16384, 32768])
def test_the_papers_rule_gets_no_warning_from_256_images_on(effective_batch: int) -> None:
    assert learning_rate_advice(TrainConfig(base_lr=1.5e-4), effective_batch) is None


@pytest.mark.parametrize(
    ("effective_batch", "peak"),
    [(1, 1.5e-3), (16, 1.5e-3), (64, 1.5e-3), (1024, 1.5e-3), (4096, 2.4e-3), (8192, 4.8e-3)],
)
def test_an_unset_rate_suits_the_batch(effective_batch: int, peak: float) -> None:
    assert peak_learning_rate(TrainConfig(), effective_batch) == pytest.approx(peak)
    assert learning_rate_advice(TrainConfig(), effective_batch) is None


@pytest.mark.parametrize("effective_batch", [1, 16, 64, 128, 256, 1024, 4096, 16384])
@pytest.mark.parametrize("peak", [9e-6, 0.05])
def test_a_rate_that_is_far_off_gets_a_value_that_is_not(effective_batch: int, peak: float) -> None:
    train = TrainConfig(base_lr=peak * 256 / effective_batch)
    advice = learning_rate_advice(train, effective_batch)
    assert advice is not None
    assert "\n" not in advice
    images = f"{effective_batch:,} image{'s' * (effective_batch > 1)}"
    assert f"a peak learning rate of {peak:.1e} with {images} per step is " in advice
    assert ("low: training will be slow" if peak < 1e-3 else "high: training may diverge") in advice
    flag = re.search(r"--train\.base_lr (\S+) makes it (\S+)$", advice)
    assert flag
    better = TrainConfig(base_lr=float(flag[1]))
    assert peak_learning_rate(better, effective_batch) == pytest.approx(float(flag[2]), rel=0.05)
    assert learning_rate_advice(better, effective_batch) is None
    if effective_batch <= 1024:
        assert 1e-3 <= float(flag[2]) <= 1.5e-3


def test_the_papers_rule_at_16_images_gets_the_demos_rate() -> None:
    assert learning_rate_advice(TrainConfig(base_lr=1.5e-4), 16) == (
        "a peak learning rate of 9.4e-06 with 16 images per step is low: training will be slow; "
        "--train.base_lr 0.024 makes it 1.5e-03"
    )
