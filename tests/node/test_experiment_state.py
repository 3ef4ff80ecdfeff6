import torch

from polyclinic.node.experiment_state import ExperimentState


def value(state):
    return None if state is None else state.tensors["x"].item()


def kept(folder, *rounds):
    state = ExperimentState(folder)
    for number in rounds:
        state.save(number, {"x": torch.tensor(number)})
    return state


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_of_the_rounds_before(tmp_path):
    state = kept(tmp_path / "e", 1, 2, 3)
    assert [value(state.load(before=number)) for number in (1, 2, 3, 4, 9)] == [None, 1, 2, 3, 3]


def test_old_rounds_and_later_ones_go(tmp_path):
    kept(tmp_path, 1, 2, 3, 4, 5)
    assert files(tmp_path) == [f"round-00000{number}.safetensors" for number in (3, 4, 5)]
    kept(tmp_path, 4)
    assert files(tmp_path) == [f"round-00000{number}.safetensors" for number in (3, 4)]


def test_rounds_that_the_node_sat_out_count_for_nothing(tmp_path):
    """With one node a round, an experiment that goes back a round goes back to a state of long ago."""
    state = kept(tmp_path, 1, 5, 9, 13)
    assert files(tmp_path) == [f"round-0000{number}.safetensors" for number in ("05", "09", "13")]
    assert value(state.load(before=13)) == 9


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path):
    state = kept(tmp_path, 1, 2)
    newest = tmp_path / "round-000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-3])
    assert value(state.load(before=3)) == 1


def test_what_a_crash_left_half_written_is_not_seen(tmp_path):
    state = kept(tmp_path, 1)
    (tmp_path / "round-000002.tmp").write_bytes(b"half")
    assert value(state.load(before=9)) == 1


def test_forgetting(tmp_path):
    state = kept(tmp_path / "e", 1)
    state.forget()
    assert not (tmp_path / "e").exists()
    assert state.load(before=2) is None
    state.forget()
