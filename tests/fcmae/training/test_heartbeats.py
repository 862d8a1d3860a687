"""A machine that is gone is noticed within a minute, and one that lives is not taken for gone."""

import torch.distributed as dist

from fcmae.training.heartbeats import BEAT, LOST, Heartbeats


def test_a_machine_that_is_gone() -> None:
    """Both beat for ten minutes, then one does not."""
    now = [0.0]
    store = dist.HashStore()
    a, b = (Heartbeats(store, mine, [other], lambda: now[0]) for mine, other in ((0, 8), (8, 0)))
    while now[0] < 600:
        assert a.lost() is None
        assert b.lost() is None
        now[0] += BEAT
    died = now[0]
    while (lost := a.lost()) is None:
        now[0] += BEAT
    assert lost == f"the machine of process 8 has not been heard of for {LOST:g} s"
    assert LOST < now[0] - died <= LOST + 2 * BEAT


def test_a_machine_that_never_came_to_life() -> None:
    now = [0.0]
    one = Heartbeats(dist.HashStore(), 0, [1, 2], lambda: now[0])
    assert one.lost() is None
    now[0] = LOST + 1
    assert "process 1" in str(one.lost())


def test_the_store_is_gone() -> None:
    """It was the first machine's."""

    class Gone(dist.HashStore):
        def add(self, *_: object) -> int:
            raise dist.DistNetworkError("Connection reset by peer")

    assert "cannot be reached (Connection reset by peer)" in str(Heartbeats(Gone(), 1, [0]).lost())
