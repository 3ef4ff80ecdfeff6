import time

import pytest

from polyclinic.errors import Cancelled, DeadlinePassed
from polyclinic.messages.replies import TrainReply
from polyclinic.node.stop import Stop


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
