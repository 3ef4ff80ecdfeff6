import pytest
import torch
from torch.utils.data import TensorDataset

from polyclinic.errors import DatasetError
from polyclinic.node.dataset_kinds import samples
from polyclinic.node.dataset_kinds.samples import check_part, part_notes


def rows(n=10):
    return torch.arange(n * 3.0).reshape(n, 3), torch.zeros(n, 1)


def test_what_is_known_of_a_good_part():
    part = check_part(TensorDataset(*rows()), "train")
    assert (part.num_rows, part.shape, part.target, part.num_checked) == (10, (3,), "float32 (1,)", 10)
    assert part_notes({"train": part}) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_counted(bad):
    x, y = rows()
    x[[2, 7], 1] = bad
    with pytest.raises(DatasetError, match=r"nan or infinite values in the input 1 of 2 of 10 rows .* train part"):
        check_part(TensorDataset(x, y), "train")
    with pytest.raises(DatasetError, match="in the target of 2 of 10"):
        check_part(TensorDataset(y, x), "train")


def test_of_a_large_part_some_rows_are_read_and_it_is_said(monkeypatch):
    monkeypatch.setattr(samples, "_MOST_NUMBERS", 80)
    part = check_part(TensorDataset(*rows(100)), "test")
    assert part.num_checked == 20
    assert part_notes({"test": part}) == ["20 of 100 rows of the test part were searched for nan and infinite values."]
    x, y = rows(100)
    x[95] = torch.nan  # the last that is looked at
    with pytest.raises(DatasetError, match="1 of 20 rows that were looked at"):
        check_part(TensorDataset(x, y), "test")


class Odd:
    def __init__(self, row):
        self.row = row

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if isinstance(self.row, Exception):
            raise self.row
        return self.row


@pytest.mark.parametrize(
    ("dataset", "what"),
    [
        (iter([1]), "no dataset: list_iterator lacks __len__"),
        ([], "train part has no rows"),
        (Odd(torch.zeros(3)), "is Tensor, not a tuple"),
        (Odd((torch.zeros(3),)), "is tuple, not a tuple of two|not a tuple"),
        (Odd((torch.zeros(3), "SECRET")), "holds Tensor, str"),
        (Odd(ValueError("SECRET")), r"row 0 of the train part cannot be read \(ValueError\)"),
    ],
)
def test_what_is_no_dataset_of_tuples(dataset, what):
    with pytest.raises(DatasetError, match=what) as caught:
        check_part(dataset, "train")
    assert caught.value.to_do
    assert "SECRET" not in str(caught.value)
