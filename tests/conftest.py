"""Shared by all tests: a fixed seed for each, two threads, and the masks that are easy to get wrong."""

import contextlib
import importlib.util
import os
from collections.abc import Collection, Generator, Iterator

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported: waiting threads sleep, not spin
os.environ.setdefault("NUMBA_NUM_THREADS", "2")  # on one core, too, the kernels share out their work
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
if CORES and (worker := os.environ.get("PYTEST_XDIST_WORKER")):
    # Each test process stays on a core: the threads of an operation never wait for one that another process holds.
    # Before torch is imported, whose threads stay there, too. Tests of threads take every_core.
    os.sched_setaffinity(0, {CORES[int(worker.removeprefix("gw")) % len(CORES)]})

import torch  # noqa: E402

torch.set_num_threads(2)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported: its kernels then run on the CPU

from hypothesis import settings  # noqa: E402

from fcmae.cli.matmul import use_exact_onednn  # noqa: E402
from fcmae.sparse.backends.operations import Backend  # noqa: E402
from fcmae.sparse.backends.registry import resolve_backend  # noqa: E402

settings.register_profile("busy", settings.get_profile(settings.get_current_profile_name()), deadline=None)
settings.load_profile("busy")
use_exact_onednn()  # now, so that products do not change from one test to the next


WAITING = (
    "test_nodes",
    "test_slurm",
    "test_benchmarks",
    "test_sharding",
    "test_processes",
    "test_peers",
    "test_kernel_code",
)
"""Files whose tests mostly wait for processes of their own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that wait come first: other test processes use the time, which they could not at the end."""
    items.sort(key=lambda item: item.path.stem not in WAITING)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def every_core() -> Iterator[None]:
    """All cores for all threads of this process, even if it was kept to one: they run at once, as a user's do."""
    before = os.sched_getaffinity(0) if CORES else set()
    _keep_to(CORES)
    yield
    _keep_to(before)


def _keep_to(cores: Collection[int]) -> None:
    for thread in os.listdir("/proc/self/task") if cores else []:
        with contextlib.suppress(ProcessLookupError):  # it has ended since it was listed
            os.sched_setaffinity(int(thread), cores)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Output of tests about file names that are not UTF-8, which pytest-xdist cannot send from its processes."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


# every operation, on a CPU: float64, float32, half precision, gradcheck, autocast, views, shapes that are refused
COMPLETE_BACKENDS = ["numba", "torch"]


@pytest.fixture(params=COMPLETE_BACKENDS)
def ops(request: pytest.FixtureRequest) -> Backend:
    """The backends that compute every operation on a CPU."""
    return resolve_backend(request.param)


def random_visible(batch: int, height: int, width: int, num_visible: int) -> torch.Tensor:
    """bool [B, h, w] with the same number of patches kept in each image."""
    order = torch.rand(batch, height * width).argsort(1)
    return (order < num_visible).view(batch, height, width)


# (batch, h, w, K): H ≠ W, a 1×1 grid, K = 1, K = all, one row, one column, a batch of 1
GRIDS = [
    pytest.param((2, 3, 4, 5), id="oblong"),
    pytest.param((3, 1, 1, 1), id="one-patch-grid"),
    pytest.param((2, 3, 3, 1), id="K=1"),
    pytest.param((2, 2, 3, 6), id="K=all"),
    pytest.param((2, 1, 5, 2), id="one-row"),
    pytest.param((1, 4, 1, 2), id="one-column-batch-1"),
]

HAVE_MINKOWSKI = importlib.util.find_spec("MinkowskiEngine") is not None
# CI installs MinkowskiEngine and sets this, so that its tests cannot pass by skipping
if os.environ.get("REQUIRE_MINKOWSKI") and not HAVE_MINKOWSKI:
    raise ImportError("REQUIRE_MINKOWSKI is set, but MinkowskiEngine is not installed; make minkowski installs it")
# Why a skip: it is optional and no plain dependency (minutes to build from source, with OpenBLAS's headers), so
# `make test` on a fresh clone must do without. One that is installed but broken is not skipped: its tests fail.
needs_minkowski = pytest.mark.skipif(
    not HAVE_MINKOWSKI, reason="MinkowskiEngine is optional and not installed; make minkowski builds it"
)
minkowski = pytest.param("minkowski", marks=needs_minkowski)

BACKENDS = ["torch", "numba", "triton", minkowski]  # convolutions and whole networks, in float32
