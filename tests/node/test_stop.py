import time

import pytest

from polyclinic.errors import Cancelled, DeadlinePassed
from polyclinic.messages.replies import TrainReply
from polyclinic.node.stop import Progress, Stop


def test_nothing_stops_by_itself():
    Stop().check()
    Stop(deadline=time.monotonic() + 60).check()


def test_cancelled_and_too_late():
    stop = Stop(deadline=time.monotonic() - 1)
    with pytest.raises(DeadlinePassed, match="deadline passed") as late:
        stop.check()
    assert "min_nodes" in late.value.to_do
    stop.cancelled.set()
    with pytest.raises(Cancelled):
        stop.check()


class Stopping(list):
    """Samples; reading the sixth one sets the stop."""

    def __init__(self, dataset, act):
        super().__init__(dataset)
        self.act = act
        self.read = 0

    def __getitem__(self, index):
        self.read += 1
        if self.read == 6:
            self.act()
        return super().__getitem__(index)


@pytest.mark.parametrize("what", ["train", "evaluate"])
@pytest.mark.parametrize("how", ["cancelled", "late"])
def test_work_stops_between_two_batches(work, what, how):
    stop = Stop()

    def act():
        if how == "cancelled":
            stop.cancelled.set()
        else:
            stop.deadline = time.monotonic() - 1

    data = Stopping(work.rows(40), act)
    node = work.node(data, data)
    data.read = 0
    reply = node.handle(getattr(work, what)(work.plan(), num_updates=10), stop)
    assert (reply.code, reply.stage) == ({"cancelled": "cancelled", "late": "deadline"}[how], what)
    assert data.read == 8  # two batches of four, of ten
    if what == "train":
        assert isinstance(node.handle(work.train(work.plan()), Stop()), TrainReply)


def test_progress_is_told_a_few_times_a_second_and_not_at_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("polyclinic.node.stop.time.monotonic", lambda: now[0])
    told = []
    stop = Stop(told=told.append)
    losses = []
    for _ in range(14):
        losses.append(1 / 3)
        stop.after_batch(losses, 100)
        now[0] += 0.0625
    # Each quarter of a second.
    assert [progress.batch for progress in told] == [5, 9, 13]
    assert told[0] == Progress(5, 100, 0.333)


def test_nobody_need_be_told():
    stop = Stop()
    stop._next = 0.0
    stop.after_batch([1.0], 1)
