"""What a researcher sends, over the real server."""

from __future__ import annotations

import asyncio

import torch

from polyclinic.federation.over_nats import subjects
from polyclinic.federation.over_nats.correspondence import Correspondence
from polyclinic.federation.over_nats.directory import Directory
from polyclinic.messages.requests import PlanText, TrainRequest
from polyclinic.messages.training_args import TrainingArgs

REQUEST = TrainRequest(
    request_id="r1",
    experiment_id="e1",
    dataset_id="heart",
    plan=PlanText(text="class Plan: pass", class_name="Plan"),
    model_args={},
    training_args=TrainingArgs(batch_size=1, num_updates=1),
    seed=1,
    round=1,
    tensors={"weight": torch.zeros(200_000)},  # too large to travel in the message
)
LATE_SECONDS = 0.5


def late(put):
    async def wait(*arguments):
        # What withdraws or deletes, and not what is sent.
        if b"" in arguments or "forget" in arguments:
            await asyncio.sleep(LATE_SECONDS)
        return await put(*arguments)

    return wait


def test_what_is_asked_again_stays_though_the_time_before_is_tidied_up_late(guys, ada, party, tmp_path):
    async def run():
        researcher = Correspondence(ada, Directory(tmp_path), tmp_path)
        await researcher.open()
        researcher._put = late(researcher._put)
        researcher.link.ask_desk = late(researcher.link.ask_desk)
        try:
            first, again = (researcher.prepare({"guys": REQUEST}, None) for _ in range(2))
            await researcher.deliver(first)
            await researcher.finish(first)
            await researcher.deliver(again)
            await asyncio.sleep(2 * LATE_SECONDS)
            async with party(guys) as node:
                pull = await node.client.jetstream().pull_subscribe_bind(consumer="guys", stream=subjects.REQUESTS)
                [asked] = await pull.fetch(2, timeout=2)
                assert asked.data == again.frames["guys"]
                [sha256] = again.parts
                chunk = subjects.direct_get(subjects.PAYLOADS, subjects.down("ada", "e1", sha256, 0))
                answer = await node.client.request(chunk, b"", timeout=20)
                assert len(answer.data) > 100_000
                await asked.ack_sync(20)
        finally:
            await researcher.close()

    asyncio.run(run())
