import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from polyclinic.errors import ConfigError
from polyclinic.messages.training_args import LearningRateSchedule, TrainingArgs

PAGE = Path(__file__).parents[2] / "docs" / "training-arguments.md"


def parse(**given_args):
    return TrainingArgs.parse(given_args)


# ---- what is refused


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("epoch", "did you mean 'epochs'?"),
        ("batchsize", "did you mean 'batch_size'?"),
        ("n_updates", "did you mean 'num_updates'?"),
        ("learning-rate-of-all", "known: batch_size, buffers, clip_norm,"),
    ],
)
def test_an_unknown_argument_is_refused_with_the_nearest(key, hint):
    with pytest.raises(ConfigError) as caught:
        TrainingArgs.parse({"epochs": 1, key: 1})
    assert caught.value.what == f"unknown training argument {key!r}"
    assert caught.value.to_do.startswith(hint)


@pytest.mark.parametrize(
    ("given_args", "got"),
    [
        ({}, "got epochs=None and num_updates=None"),
        ({"epochs": 1, "num_updates": 2}, "got epochs=1 and num_updates=2"),
        ({"epochs": None, "num_updates": None}, "got epochs=None and num_updates=None"),
    ],
)
def test_exactly_one_of_epochs_and_num_updates(given_args, got):
    with pytest.raises(ConfigError) as caught:
        TrainingArgs.parse(given_args)
    assert caught.value.what == f"training_args needs exactly one of epochs and num_updates, {got}"
    assert caught.value.to_do.startswith("give epochs (passes over each node's data) or num_updates (batches)")
    # The class itself cannot be made of them either, nor read from a request.
    with pytest.raises(ValidationError, match="exactly one of epochs and num_updates"):
        TrainingArgs(**given_args)


def test_a_schedule_needs_a_learning_rate():
    with pytest.raises(ConfigError, match="lr_schedule needs lr") as caught:
        parse(epochs=1, lr_schedule={"kind": "step"})
    assert caught.value.to_do == "add lr, for example lr=0.01"


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("batch_size", 0, "training argument 'batch_size': Input should be greater than or equal to 1, got 0"),
        ("batch_size", 2.5, "training argument 'batch_size': .* fractional part, got 2.5"),
        ("batch_size", None, "training argument 'batch_size': .* valid integer, got None"),
        ("lr", 0, "training argument 'lr': Input should be greater than 0, got 0"),
        ("lr", -0.1, "training argument 'lr': Input should be greater than 0, got -0.1"),
        ("lr", math.nan, "training argument 'lr': Input should be a finite number, got nan"),
        ("lr", math.inf, "training argument 'lr': Input should be a finite number, got inf"),
        ("lr", "fast", "training argument 'lr': .* valid number.*, got 'fast'"),
        ("epochs", 0, "training argument 'epochs': Input should be greater than or equal to 1, got 0"),
        ("num_updates", -1, "training argument 'num_updates': Input should be greater than or equal to 1, got -1"),
        ("optimizer_state", "new", "training argument 'optimizer_state': .* 'fresh' or 'kept', got 'new'"),
        ("buffers", "own", "training argument 'buffers': .* 'averaged' or 'local', got 'own'"),
        ("device", 0, "training argument 'device': .* valid string, got 0"),
        ("clip_norm", 0, "training argument 'clip_norm': Input should be greater than 0, got 0"),
        ("clip_norm", math.inf, "training argument 'clip_norm': Input should be a finite number, got inf"),
        ("seed", -1, "training argument 'seed': Input should be greater than or equal to 0, got -1"),
        ("num_workers", -1, "training argument 'num_workers': Input should be greater than or equal to 0, got -1"),
        ("drop_last", "perhaps", "training argument 'drop_last': .* valid boolean.*, got 'perhaps'"),
        ("dry_run", 2, "training argument 'dry_run': .* valid boolean.*, got 2"),
        ("test_every", -1, "training argument 'test_every': Input should be greater than or equal to 0, got -1"),
        ("lr_schedule", {"kind": "stp"}, "'lr_schedule.kind': .* 'step', 'exponential' or 'cosine', got 'stp'"),
        ("lr_schedule", {}, "training argument 'lr_schedule.kind': Field required"),
        ("lr_schedule", {"kind": "step", "evry": 2}, "training argument 'lr_schedule.evry': Extra inputs .*, got 2"),
        ("lr_schedule", {"kind": "step", "every": 0}, "'lr_schedule.every': .* greater than or equal to 1, got 0"),
        ("lr_schedule", {"kind": "step", "factor": 0}, "'lr_schedule.factor': .* greater than 0, got 0"),
        ("lr_schedule", {"kind": "step", "factor": 2}, "'lr_schedule.factor': .* less than or equal to 1, got 2"),
        ("lr_schedule", {"kind": "cosine", "rounds": 0}, "'lr_schedule.rounds': .* greater than or equal to 1, got 0"),
        ("lr_schedule", {"kind": "cosine", "final": 1.5}, "'lr_schedule.final': .* less than or equal to 1, got 1.5"),
    ],
)
def test_a_value_out_of_range_is_named_with_the_range(key, value, text):
    rest = {} if key in ("epochs", "num_updates") else {"epochs": 1}
    with pytest.raises(ConfigError, match=text):
        TrainingArgs.parse({"lr": 0.1, **rest, key: value})


def test_they_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        parse(epochs=1).lr = 1.0


# ---- what is taken


def test_numbers_of_numpy_are_numbers():
    args = parse(epochs=np.int64(2), lr=np.float64(0.5))
    assert (args.epochs, args.lr) == (2, 0.5)


def test_arguments_that_are_parsed_already_are_taken():
    args = parse(epochs=1)
    assert TrainingArgs.parse(args) == args


@given(
    st.builds(
        LearningRateSchedule,
        kind=st.sampled_from(["step", "exponential", "cosine"]),
        every=st.integers(1, 10**6),
        factor=st.floats(0, 1, exclude_min=True),
        rounds=st.integers(1, 10**6),
        final=st.floats(0, 1),
    ),
    st.floats(0, exclude_min=True, allow_infinity=False),
    st.integers(0),
)
def test_a_round_trip_by_json(schedule, lr, seed):
    args = TrainingArgs(num_updates=7, lr=lr, lr_schedule=schedule, seed=seed, clip_norm=lr, device="cuda:0")
    assert TrainingArgs.model_validate_json(args.model_dump_json()) == args
    assert TrainingArgs.parse(json.loads(args.model_dump_json())) == args


# ---- schedules against closed forms


def rates(schedule, rounds, lr=0.1):
    args = parse(epochs=1, lr=lr, lr_schedule=schedule)
    return [args.learning_rate(number) for number in range(1, rounds + 1)]


def test_no_schedule_is_constant():
    assert parse(epochs=1, lr=0.1).learning_rate(100) == 0.1
    assert parse(epochs=1).learning_rate(100) is None


def test_step():
    assert rates({"kind": "step", "every": 3, "factor": 0.5}, 7, lr=8.0) == [8, 8, 8, 4, 4, 4, 2]


def test_exponential():
    assert rates({"kind": "exponential", "factor": 0.5}, 4, lr=8.0) == [8, 4, 2, 1]


def test_cosine():
    assert rates({"kind": "cosine", "rounds": 4}, 6, lr=1.0) == pytest.approx(
        [1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4, 0, 0], abs=1e-15
    )


def test_cosine_ends_at_final():
    got = rates({"kind": "cosine", "rounds": 10, "final": 0.2}, 30, lr=5.0)
    assert got[0] == 5.0
    assert got[5] == pytest.approx((5.0 + 1.0) / 2)
    assert got[10:] == [1.0] * 20
    assert got[:11] == sorted(set(got), reverse=True)


def test_schedules_agree_with_torch():
    torch = pytest.importorskip("torch")
    lr_scheduler = torch.optim.lr_scheduler
    cases = [
        ({"kind": "step", "every": 3, "factor": 0.3}, lambda o: lr_scheduler.StepLR(o, 3, 0.3)),
        ({"kind": "exponential", "factor": 0.9}, lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
        ({"kind": "cosine", "rounds": 12, "final": 0.1}, lambda o: lr_scheduler.CosineAnnealingLR(o, 12, 0.01)),
    ]
    for schedule, make in cases:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        theirs, scheduler = [], make(optimizer)
        for _ in range(12):
            theirs.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert rates(schedule, 12) == pytest.approx(theirs)


# ---- the page


def rows_of_the_page():
    """argument -> default, as the page's first table has them."""
    return dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))


def test_the_page_names_every_argument_and_its_default():
    assert rows_of_the_page() == {
        name: str(field.default) if not isinstance(field.default, str) else f'"{field.default}"'
        for name, field in TrainingArgs.model_fields.items()
    }


def test_the_page_names_every_setting_of_a_schedule_and_its_default():
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"`(\w+)` = `([\d.]+)`", page)) == {
        (name, str(field.default)) for name, field in LearningRateSchedule.model_fields.items() if name != "kind"
    }
    for kind in ("step", "exponential", "cosine"):
        assert f'| `"{kind}"` |' in page


def test_the_programs_of_the_page_run():
    for program in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(program, str(PAGE), "exec"), {"TrainingArgs": TrainingArgs})
