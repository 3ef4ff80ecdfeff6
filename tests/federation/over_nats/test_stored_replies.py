"""What is asked twice is answered twice, and done once; what is replayed later is refused."""

import time

import pytest

from polyclinic.errors import MessageError
from polyclinic.federation.over_nats.signing import Envelope
from polyclinic.federation.over_nats.stored_replies import Answer, StoredReplies
from polyclinic.messages.replies import Failure, TrainReply


def asked(frame, *, request="r1", round_index=1, digest="d", sender="ada"):
    given = {"request_id": request, "experiment_id": "e", "round": round_index, "digest": digest}
    return Envelope(kind="request", id=frame, sender=sender, recipient="guys", time=time.time(), **given)


def trained(request="r1"):
    return TrainReply(request_id=request, node_id="guys", num_samples=3, num_updates=1, loss=0.5, seconds=0.1)


def failed(request="r1"):
    return Failure(request_id=request, node_id="guys", code="node", stage="train", what="it broke")


def test_a_reply_answers_the_same_work_also_for_a_node_that_was_started_again(tmp_path):
    file = tmp_path / "scratch.safetensors"
    file.write_bytes(b"tensors")
    StoredReplies(tmp_path).keep(asked("f1"), Answer(trained(), file))
    assert not file.exists()
    replies = StoredReplies(tmp_path)
    for envelope in (asked("f1"), asked("f2")):
        found = replies.find(envelope)
        assert found.reply == trained()
        assert found.tensors.read_bytes() == b"tensors"


def test_other_work_is_done(tmp_path):
    replies = StoredReplies(tmp_path)
    replies.keep(asked("f1"), Answer(trained()))
    for other in (asked("f2", digest="other"), asked("f3", request="r2"), asked("f4", sender="bob")):
        assert replies.find(other) is None


def test_a_reply_whose_tensors_did_not_outlast_a_power_cut_is_done_again(tmp_path):
    file = tmp_path / "scratch.safetensors"
    file.write_bytes(b"tensors")
    kept = StoredReplies(tmp_path).keep(asked("f1"), Answer(trained(), file))
    kept.tensors.write_bytes(b"tens")
    assert [StoredReplies(tmp_path).find(asked(frame)) for frame in ("f1", "f2")] == [None, None]
    kept.tensors.unlink()
    assert StoredReplies(tmp_path).find(asked("f2")) is None


def test_half_a_stored_reply_is_none(tmp_path):
    StoredReplies(tmp_path).keep(asked("f1"), Answer(trained()))
    (path,) = (tmp_path / "replies").glob("*.json")
    path.write_text(path.read_text()[:50])
    assert StoredReplies(tmp_path).find(asked("f2")) is None


def test_a_reply_that_was_not_kept_can_be_settled(tmp_path):
    StoredReplies(tmp_path).settle(asked("f1"))


def test_a_failure_answers_its_own_frame_only(tmp_path):
    replies = StoredReplies(tmp_path)
    replies.keep(asked("f1"), Answer(failed()))
    assert replies.find(asked("f1")).reply == failed()
    assert replies.find(asked("f2")) is None


def test_replies_of_rounds_before_the_last_go_and_their_replay_is_refused(tmp_path):
    replies = StoredReplies(tmp_path)
    for number in (1, 2, 3):
        envelope = asked(f"f{number}", request=f"r{number}", round_index=number)
        replies.keep(envelope, Answer(trained(f"r{number}")))
        replies.settle(envelope)
    assert len(list((tmp_path / "replies").glob("*.json"))) == 2
    for again in (replies, StoredReplies(tmp_path)):
        with pytest.raises(MessageError, match="came a second time"):
            again.find(asked("f1"))
