from __future__ import annotations

import numpy as np
import torch

from polyclinic.datasets.table import TableDataset


def test_rows_and_whole_tensors_are_the_same_in_the_asked_dtype():
    table = TableDataset(np.arange(6.0).reshape(3, 2), np.ones((3, 1)), dtype=torch.float64)
    assert table.tensors is not None
    x, y = table[1]
    assert (x.dtype, y.dtype) == (torch.float64, torch.float64)
    torch.testing.assert_close(x, table.tensors[0][1])
    assert (len(table), y.tolist()) == (3, [1.0])


def test_with_a_transform_there_are_no_whole_tensors():
    table = TableDataset(np.ones((3, 2)), np.ones((3, 1)), transform=lambda x: x * 2)
    assert table.tensors is None
    assert table[0][0].tolist() == [2.0, 2.0]
    assert table[0][1].tolist() == [1.0]
