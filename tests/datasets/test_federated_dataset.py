from __future__ import annotations

import inspect
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from polyclinic.datasets.federated_dataset import (
    REQUIRED_NAMES,
    FederatedDataset,
    center_index,
    known_datasets,
    load_module,
    rounds_for,
)
from polyclinic.errors import ConfigError, DatasetError


class Flamby(Dataset):
    """A class with FLamby's signature: more arguments, in another order, by position or by name."""

    def __init__(
        self, transform=None, center=0, train=True, pooled=False, X_dtype=torch.float32, debug=False, data_path=None
    ):
        assert center in (0, 1)
        if data_path is not None and not Path(data_path).exists():
            raise ValueError(f"The string {data_path} is not a valid path.")
        self.seen = {"center": center, "train": train, "pooled": pooled, "data_path": data_path, "debug": debug}

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.zeros(2), torch.zeros(1)


class WithoutPath(Dataset):
    def __init__(self, center=0, train=True, pooled=False, X_dtype=torch.float32):
        self.seen = {"center": center, "train": train, "pooled": pooled}


def module_of(fed_class: type, **names: object) -> types.ModuleType:
    module = types.ModuleType("somebody.fed_else")
    contract: dict[str, object] = {
        "FedClass": fed_class,
        "Baseline": torch.nn.Identity,
        "BaselineLoss": torch.nn.MSELoss,
        "Optimizer": torch.optim.SGD,
        "metric": lambda y_true, y_pred: 0.0,
        "BATCH_SIZE": 4,
        "LR": 0.1,
        "NUM_CLIENTS": 2,
        "NUM_EPOCHS_POOLED": 3,
        "get_nb_max_rounds": lambda num_updates, batch_size=4: 1,
    }
    for name, value in (contract | names).items():
        setattr(module, name, value)
    return module


def test_the_datasets_that_come_along_are_found_without_importing_them():
    assert {"fed_heart_disease", "fed_ixi", "fed_tcga_brca"} <= set(known_datasets())


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(DatasetError, match="no dataset 'fed_hart_disease'") as caught:
        load_module("fed_hart_disease")
    assert "did you mean 'fed_heart_disease'?" in str(caught.value)


@pytest.mark.parametrize("name", ["no_such_package.fed_x", "", "..", "polyclinic.datasets.fed_nothing"])
def test_a_name_that_cannot_be_imported_is_a_dataset_error(name):
    with pytest.raises(DatasetError):
        load_module(name)


def test_a_module_that_needs_another_one_says_which(tmp_path, monkeypatch):
    (tmp_path / "fed_needy_for_test.py").write_text("import no_such_library_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DatasetError, match="needs the module 'no_such_library_at_all'"):
        load_module("fed_needy_for_test")


def test_a_module_that_breaks_at_import_says_how(tmp_path, monkeypatch):
    (tmp_path / "fed_broken_for_test.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DatasetError, match="ZeroDivisionError: division by zero"):
        load_module("fed_broken_for_test")


@pytest.mark.parametrize("missing", REQUIRED_NAMES)
def test_a_name_missing_from_the_contract_is_named(missing):
    module = module_of(Flamby)
    delattr(module, missing)
    with pytest.raises(DatasetError, match=f"is no federated dataset: it lacks {missing}$|it lacks {missing}\n"):
        FederatedDataset(module)


def test_any_importable_module_is_checked_like_ours():
    with pytest.raises(DatasetError, match=r"json is no federated dataset: it lacks BATCH_SIZE, Baseline"):
        FederatedDataset.load("json")


def test_a_flamby_class_gets_its_arguments_by_name(tmp_path):
    dataset = FederatedDataset(module_of(Flamby))
    built = dataset.build(1, train=False, data_path=tmp_path, debug=True)
    assert built.seen == {"center": 1, "train": False, "pooled": False, "data_path": tmp_path, "debug": True}
    assert dataset.centers == ("center 0", "center 1")


def test_positional_only_arguments_are_given_in_their_order():
    class Positional(Dataset):
        def __init__(self, center, train, /, pooled=False):
            self.seen = (center, train, pooled)

    assert FederatedDataset(module_of(Positional)).build(1, False).seen == (1, False, False)


def test_a_class_without_pooled_data_works_until_they_are_asked_for():
    class NoPooled(Dataset):
        def __init__(self, center, train):
            self.seen = (center, train)

    dataset = FederatedDataset(module_of(NoPooled))
    assert dataset.build(0, True).seen == (0, True)
    with pytest.raises(ConfigError, match="unknown argument of fed_else 'pooled'"):
        dataset.build(0, True, pooled=True)


def test_a_path_is_refused_where_the_class_takes_none(tmp_path):
    dataset = FederatedDataset(module_of(WithoutPath))
    assert dataset.build(1).seen == {"center": 1, "train": True, "pooled": False}
    with pytest.raises(ConfigError, match="fed_else takes no path"):
        dataset.build(1, data_path=tmp_path)


def test_an_unknown_option_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="'X_dtyp'") as caught:
        FederatedDataset(module_of(Flamby)).build(0, X_dtyp=torch.float64)
    assert "did you mean 'X_dtype'?" in str(caught.value)


def test_an_error_of_the_class_becomes_a_dataset_error():
    with pytest.raises(DatasetError, match="ValueError: The string /no/where is not a valid path"):
        FederatedDataset(module_of(Flamby)).build(0, data_path="/no/where")


@pytest.mark.parametrize("center", [2, -1, "2"])
def test_a_center_out_of_range_is_refused(center):
    with pytest.raises(ConfigError, match=r"center -?\d is out of range"):
        FederatedDataset(module_of(Flamby)).build(center)


@pytest.mark.parametrize("center", [True, 0.5])
def test_a_center_is_a_number_or_a_name(center):
    with pytest.raises(ConfigError, match="a center is a number or a name"):
        center_index(center, ("Guys", "HH"))


def test_centers_go_by_name_in_any_case():
    assert [center_index(c, ("Guys", "HH")) for c in ("guys", "HH", 1, "0")] == [0, 1, 1, 0]
    with pytest.raises(ConfigError, match="no center 'gys'; the centers are 0 Guys, 1 HH") as caught:
        center_index("gys", ("Guys", "HH"))
    assert "did you mean 'guys'?" in str(caught.value)


def test_centers_and_num_clients_must_agree():
    with pytest.raises(DatasetError, match="3 names in CENTERS and 2 in NUM_CLIENTS"):
        FederatedDataset(module_of(Flamby, CENTERS=("a", "b", "c")))


def test_a_module_without_preparation_is_built_from_the_path_as_it_is(tmp_path):
    dataset = FederatedDataset(module_of(Flamby))
    assert dataset.ensure_prepared(tmp_path) == tmp_path
    assert dataset.ensure_prepared(None) is None
    with pytest.raises(DatasetError, match="fed_else has no function 'mock'"):
        dataset.hook("mock")


def test_options_that_a_preparation_does_not_take_are_left_out(tmp_path):
    def ensure_prepared(data_path, flamby_compatible=False):
        return Path(data_path) / str(flamby_compatible)

    dataset = FederatedDataset(module_of(Flamby, ensure_prepared=ensure_prepared))
    assert dataset.ensure_prepared(tmp_path, flamby_compatible=True, debug=True) == tmp_path / "True"


def test_a_torch_dataset_built_by_a_function_is_as_good_as_a_class():
    def fed_class(center, train):
        return TensorDataset(torch.zeros(center + 1))

    assert len(FederatedDataset(module_of(fed_class)).build(1)) == 2


def test_the_round_formula_is_integer_arithmetic_from_left_to_right():
    # ((486 // 4 // 4) * 50) // 100 = (30 * 50) // 100
    assert rounds_for(100, 4, train_samples=486, num_clients=4, epochs=50) == 15
    with pytest.raises(ConfigError, match="at least 1"):
        rounds_for(0, 4, train_samples=486, num_clients=4, epochs=50)


# As FLamby publishes them: classes; clients, batch, rate, optimizer, epochs, rounds of 100 updates; training and test
# samples over all centers; parameters.
FLAMBY = {
    "fed_camelyon16": ("FedCamelyon16 Camelyon16Raw", (2, 16, 0.001, "Adam", 45, 3), (270, 129), 320_258),
    "fed_heart_disease": ("FedHeartDisease HeartDiseaseRaw", (4, 4, 0.001, "Adam", 50, 15), (486, 254), 14),
    "fed_isic2019": ("FedIsic2019 Isic2019Raw", (6, 64, 0.0005, "Adam", 20, 9), (18597, 4650), 4_017_796),
    "fed_ixi": ("FedIXITiny IXITinyRaw", (3, 2, 0.001, "AdamW", 10, 7), (453, 113), 246_156),
    "fed_kits19": ("FedKits19 Kits19Raw", (6, 2, 0.0003, "Adam", 500, 30), (74, 22), 30_785_984),
    "fed_lidc_idri": ("FedLidcIdri LidcIdriRaw", (4, 1, 0.01, "Adam", 100, 201), (808, 201), 45_596_309),
    "fed_synthetic": ("FedSynthetic SyntheticRaw", (4, 8, 0.005, "Adam", 10, 3), (660, 340), 33),
    "fed_tcga_brca": ("FedTcgaBrca TcgaBrcaRaw", (6, 8, 0.1, "Adam", 30, 5), (866, 222), 40),
}
MORE_NAMES = {
    "fed_camelyon16": {"collate_fn"},
    "fed_ixi": {"SEEDS"},
    "fed_kits19": {"SEEDS", "collate_fn", "evaluate_dice_on_tests", "softmax_helper"},
    "fed_lidc_idri": {"SEEDS", "collate_fn", "evaluate_dice_on_tests_by_chunks"},
}


def test_all_of_flambys_datasets_are_there():
    assert sorted(FLAMBY) == list(known_datasets())


@pytest.mark.parametrize("name", sorted(FLAMBY))
def test_names_constants_and_counts_are_flambys(name):
    dataset = FederatedDataset.load(name)
    classes, constants, counts, num_parameters = FLAMBY[name]
    exported = {*classes.split(), *REQUIRED_NAMES, *MORE_NAMES.get(name, ())}
    assert exported <= set(dataset.module.__all__)
    assert dataset.fed_class is getattr(dataset.module, classes.split()[0])
    rounds = dataset.get_nb_max_rounds(100, flamby_compatible=True)
    found = (dataset.num_clients, dataset.batch_size, dataset.lr, dataset.optimizer.__name__)
    assert (*found, dataset.num_epochs_pooled, rounds) == constants
    assert tuple(sum(part) for part in zip(*dataset.card.samples, strict=True)) == counts
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in dataset.baseline().parameters()) == num_parameters
    dataset.baseline_loss()


@pytest.mark.parametrize("name", sorted(FLAMBY))
def test_arguments_are_the_same_everywhere_and_go_by_name_only(name):
    module = FederatedDataset.load(name).module
    parameters = inspect.signature(module.FedClass).parameters
    assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    first = [(key, parameter.default) for key, parameter in parameters.items()][:7]
    assert first == [
        ("center", 0),
        ("train", True),
        ("pooled", False),
        ("data_path", None),
        ("transform", None),
        ("dtype", torch.float32),
        ("flamby_compatible", False),
    ]
    raw = inspect.signature(getattr(module, FLAMBY[name][0].split()[1])).parameters
    assert {"data_path", "transform", "dtype"} <= raw.keys() <= parameters.keys()
    assert [*inspect.signature(module.prepare).parameters][:3] == ["source", "to", "flamby_compatible"]
    assert [*inspect.signature(module.mock).parameters][:3] == ["to", "patients_per_center", "seed"]
    assert [*inspect.signature(module.download).parameters][:2] == ["to", "accept_license"]


@pytest.mark.parametrize("name", known_datasets())
def test_our_modules_keep_the_contract_and_describe_themselves(name):
    dataset = FederatedDataset.load(name)
    assert dataset.name == name
    assert dataset.card is not None
    assert dataset.card.name == name
    assert len(dataset.card.samples) == len(dataset.centers) == dataset.num_clients
    assert dataset.mergeable_metric is not None
    assert sorted(dataset.module.__all__) == sorted(set(dataset.module.__all__))
    for hook in ("mock", "prepare", "download", "ensure_prepared"):
        assert callable(dataset.hook(hook))
    for readable in dataset.module.__all__:
        assert hasattr(dataset.module, readable)


def test_importing_a_dataset_leaves_random_states_alone_and_heavy_libraries_out():
    program = """
import random, sys
import numpy as np, torch
random.seed(3); np.random.seed(3); torch.manual_seed(3)
before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
from polyclinic.datasets.federated_dataset import known_datasets, load_module
for name in known_datasets():
    load_module(name)
after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
assert before == after, "a global random state was changed"
heavy = {"lifelines", "monai", "nibabel", "openslide", "pydicom", "rich", "skimage", "sklearn", "torchvision"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_contract_itself_needs_no_torch():
    program = (
        "import sys, polyclinic.datasets.federated_dataset, polyclinic.cli.dataset; "
        "assert not {'torch', 'pandas', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
