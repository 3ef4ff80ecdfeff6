"""What the disk does to a run: files that are damaged one by one, moved, missing, read-only, and a full disk."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from polyclinic import Experiment
from polyclinic.errors import RunFolderError
from polyclinic.experiment.run_folder import _sealed
from polyclinic.tensors import load_file


@pytest.fixture
def done(make):
    """A run of three rounds."""
    experiment = make(keep_all_rounds=True)
    experiment.run()
    return experiment


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def model_of(experiment, number):
    named = load_file(experiment.run_folder / "models" / f"{number:06d}.safetensors")
    return {name.removeprefix("model/model."): tensor for name, tensor in named.items()}


def test_what_is_in_a_run_folder(done):
    assert names(done.run_folder) == sorted(
        [
            "experiment.json",
            "in-use.lock",
            "plan.py",
            *(f"models/{number:06d}.safetensors" for number in range(4)),
            *(f"rounds/{number:06d}.json" for number in range(4)),
        ]
    )
    digest, content = (done.run_folder / "experiment.json").read_text().split("\n")[:2]
    assert len(digest) == 64
    assert json.loads(content)["training_args"]["batch_size"] == 4
    assert "class Plan(TorchTrainingPlan)" in (done.run_folder / "plan.py").read_text()


def test_a_model_file_is_what_the_experiment_says(done, same):
    weights = done.model().state_dict()
    stored = model_of(done, 3)
    assert stored.keys() == weights.keys()
    assert all(torch.equal(stored[name], weights[name]) for name in weights)


def mapped_files():
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if line.endswith(".safetensors")}


def test_a_large_model_is_mapped_from_its_file_and_is_the_same(make, done, same, monkeypatch):
    monkeypatch.setattr("polyclinic.experiment.run_folder._MAPPED_BYTES", 1)
    found = make(keep_all_rounds=True, folder=done.run_folder.parent / "mapped")
    found.run(rounds=2)
    assert str(found.run_folder / "models/000002.safetensors") in mapped_files()
    # Whoever changes it changes their own copy, and not the file.
    as_it_was = {name: tensor.clone() for name, tensor in found._state.items()}
    for tensor in found._state.values():
        tensor.zero_()
    assert model_of(found, 2).keys() == {name.removeprefix("model.") for name in as_it_was}
    assert all(torch.equal(tensor, as_it_was[f"model.{name}"]) for name, tensor in model_of(found, 2).items())
    found._state = as_it_was
    found.run()
    assert same(found.model(), done.model())


def test_nothing_is_written_before_it_is_run(make, tmp_path):
    experiment = make()
    assert not (tmp_path / "run").exists()
    assert experiment.save() == tmp_path / "run"
    assert Experiment.load(tmp_path / "run").round == 0


def test_what_a_crash_left_half_written_is_not_seen(done, federation, same, recwarn):
    for name in ("models/000004.tmp", "rounds/000004.tmp", "experiment.tmp", "plan.tmp"):
        (done.run_folder / name).write_bytes(b"half")
    # Killed after the model, before the record that completes the round.
    (done.run_folder / "models" / "000004.safetensors").write_bytes(b"a whole model")
    again = Experiment.load(done.run_folder, federation=federation)
    assert again.round == 3
    assert same(again.model(), done.model())
    assert not recwarn.list


def test_files_of_other_people_are_left_alone(make, tmp_path):
    experiment = make()
    experiment.save()
    mine = tmp_path / "run" / "models" / "the-one-i-like.safetensors"
    mine.write_bytes(b"x")
    experiment.run()
    assert mine.read_bytes() == b"x"
    assert [path.stem for path in sorted(mine.parent.iterdir())][-1] == "the-one-i-like"


# ---- damaged files


def damage(path, how):
    if how == "deleted":
        path.unlink()
        return
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = bytearray()
    else:
        data[len(data) // 2] ^= 0x41
    path.write_bytes(data)


HOW = ["flipped", "cut", "empty", "deleted"]


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_model_goes_back_a_round(done, federation, same, how):
    before = done.model(2)
    damage(done.run_folder / "models" / "000003.safetensors", how)
    with pytest.warns(UserWarning, match="the model of round 3 is damaged or missing; going back to the round before"):
        again = Experiment.load(done.run_folder, federation=federation, observers=[])
    assert again.round == 2
    assert same(again.model(), before)
    again.run()
    assert same(again.model(), done.model())
    assert Experiment.load(done.run_folder).round == 3


@pytest.mark.parametrize("how", HOW[:3])
def test_a_damaged_record_goes_back_a_round(done, federation, same, how):
    damage(done.run_folder / "rounds" / "000003.json", how)
    with pytest.warns(UserWarning, match=r"000003\.json is damaged; its round is left out"):
        again = Experiment.load(done.run_folder, federation=federation, observers=[])
    assert again.round == 2
    again.run()
    assert same(again.model(), done.model())


def test_a_deleted_record_is_a_round_that_was_not_completed(done, federation):
    (done.run_folder / "rounds" / "000003.json").unlink()
    assert Experiment.load(done.run_folder, federation=federation).round == 2


@pytest.mark.parametrize("how", HOW[:3])
def test_a_damaged_record_in_the_middle_costs_its_figures_only(done, same, how):
    damage(done.run_folder / "rounds" / "000002.json", how)
    with pytest.warns(UserWarning, match=r"000002\.json is damaged"):
        again = Experiment.load(done.run_folder)
    assert [record.round for record in again.records] == [0, 1, 3]
    assert same(again.model(), done.model())


def test_a_record_that_is_well_sealed_but_no_record(done):
    for content in ('{"model_sha256": "x", "record": {"round": "three"}}', "[]", "3", '{"record": {}}', "not json"):
        (done.run_folder / "rounds" / "000003.json").write_bytes(_sealed(content))
        with pytest.warns(UserWarning, match=r"000003\.json is damaged"):
            assert Experiment.load(done.run_folder).round == 2


@pytest.mark.parametrize("how", HOW[:3])
def test_a_damaged_experiment(done, how):
    damage(done.run_folder / "experiment.json", how)
    with pytest.raises(RunFolderError, match=r"experiment\.json is damaged, or of another version") as caught:
        Experiment.load(done.run_folder)
    assert "from a backup" in caught.value.to_do


def test_no_experiment(done, tmp_path):
    (done.run_folder / "experiment.json").unlink()
    for folder in (done.run_folder, tmp_path / "nowhere"):
        with pytest.raises(RunFolderError, match="there is no experiment in") as caught:
            Experiment.load(folder)
        assert "experiment.json" in caught.value.to_do


@pytest.mark.parametrize("how", [*HOW, "edited"])
def test_a_plan_that_was_changed(done, how):
    plan = done.run_folder / "plan.py"
    if how == "edited":
        plan.write_text(plan.read_text().replace("lr=0.5", "lr=0.6"))
    else:
        damage(plan, how)
    with pytest.raises(RunFolderError, match=r"plan\.py was changed or deleted after") as caught:
        Experiment.load(done.run_folder)
    assert "put the original back" in caught.value.to_do


def test_nothing_left(done):
    for path in (done.run_folder / "models").iterdir():
        path.unlink()
    with (
        pytest.warns(UserWarning, match="going back"),
        pytest.raises(RunFolderError, match="no complete round is left"),
    ):
        Experiment.load(done.run_folder)


def test_a_model_that_was_not_kept(make):
    experiment = make(round_limit=6)
    experiment.run()
    with pytest.raises(RunFolderError, match=r"the model of round 1 is not in .* rounds kept: \[") as caught:
        experiment.model(1)
    assert "keep_all_rounds=True" in caught.value.to_do


# ---- folders


def test_a_moved_folder_goes_on(make, federation, tmp_path, same):
    whole = make(folder=tmp_path / "whole")
    whole.run()
    make().run(rounds=1)
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "run").rename(tmp_path / "elsewhere" / "a run, moved")
    again = Experiment.load(moved, federation=federation, observers=[])
    again.run()
    assert same(again.model(), whole.model())
    assert not (tmp_path / "run").exists()


def test_another_experiments_folder_is_refused(done, make):
    before = {name: (done.run_folder / name).read_bytes() for name in names(done.run_folder)}
    with pytest.raises(RunFolderError, match="holds an experiment already") as caught:
        make(seed=6).run()
    assert "Experiment.load(folder).run(), or give another folder" in caught.value.to_do
    assert {name: (done.run_folder / name).read_bytes() for name in names(done.run_folder)} == before


def test_a_file_in_place_of_the_folder(make, tmp_path):
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(RunFolderError, match="cannot be written: ") as caught:
        make().run()
    assert "choose another folder" in caught.value.to_do


RUNNING = """
import sys
from pathlib import Path
from polyclinic.experiment.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).in_use():
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_run_in_another_program(done, make, federation):
    with subprocess.Popen(
        [sys.executable, "-c", RUNNING, str(done.run_folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        (done.run_folder / "rounds" / "000003.json").unlink()
        again = Experiment.load(done.run_folder, federation=federation, observers=[])
        with pytest.raises(RunFolderError, match="another program is running the experiment in") as caught:
            again.run()
        assert caught.value.to_do == "wait until it is done, or stop it"
        other.communicate("\n")
    again.run()
    assert again.round == 3


# ---- disks


def run_tool(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as err:
        return subprocess.CompletedProcess(command, 1, "", str(err))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = run_tool("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place))
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    run_tool("umount", "-l", str(place))


def fill(place: Path) -> Path:
    """Takes all room but that of an empty file."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    return filler


def test_a_full_disk_keeps_the_round_before(make, small_disk, same, federation, tmp_path):
    experiment = make(folder=small_disk / "run")
    experiment.run(rounds=1)
    before = experiment.model()
    filler = fill(small_disk)
    with pytest.raises(RunFolderError, match="cannot be written: No space left on device") as caught:
        experiment.run()
    assert "make room or choose another folder; the last complete round is safe" in caught.value.to_do
    assert not list((small_disk / "run").rglob("*.tmp"))
    assert experiment.round == 1
    assert same(experiment.model(), before)
    again = Experiment.load(small_disk / "run", federation=federation, observers=[])
    assert again.round == 1
    assert same(again.model(), before)
    filler.unlink()
    experiment.run()
    uninterrupted = make(folder=tmp_path / "another")
    uninterrupted.run()
    assert same(experiment.model(), uninterrupted.model())


def test_a_disk_that_is_full_from_the_start(make, small_disk):
    filler = fill(small_disk)
    experiment = make(folder=small_disk / "run")
    for _ in range(2):
        with pytest.raises(RunFolderError, match="No space left on device"):
            experiment.run()
    filler.unlink()
    experiment.run(rounds=1)
    assert [record.round for record in Experiment.load(small_disk / "run").records] == [0, 1]


def test_a_read_only_disk(make, small_disk, same, federation):
    experiment = make(folder=small_disk / "run")
    experiment.run(rounds=1)
    before = experiment.model()
    remounted = run_tool("mount", "-o", "remount,ro", str(small_disk))
    if remounted.returncode:
        pytest.skip(f"no file system can be made read-only here: {remounted.stderr.strip()}")
    again = Experiment.load(small_disk / "run", federation=federation, observers=[])
    assert same(again.model(), before)
    assert again.evaluate().round == 1
    for one in (experiment, again, make(folder=small_disk / "new")):
        with pytest.raises(RunFolderError, match="cannot be written: Read-only file system") as caught:
            one.run()
        assert "choose another folder" in caught.value.to_do


# ---- what is kept


def kept(experiment):
    return [int(path.stem) for path in sorted((experiment.run_folder / "models").glob("*.safetensors"))]


def test_the_last_two_and_the_best_are_kept(make):
    experiment = make(round_limit=8, training_args={"lr": 40.0})
    for number in range(1, 9):
        experiment.run(rounds=1)
        losses = {r.round: -r.score for r in experiment.records if r.score is not None}
        best = min(losses, key=losses.get)
        assert kept(experiment) == sorted({number - 1, number, best})
    assert 0 < best < 7  # else the best one was not put to the test
    assert len(list((experiment.run_folder / "rounds").iterdir())) == 9


def test_all_are_kept_on_request(make):
    experiment = make(round_limit=4, keep_all_rounds=True)
    experiment.run()
    assert kept(experiment) == [0, 1, 2, 3, 4]
