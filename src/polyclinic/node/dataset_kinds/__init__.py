"""The kinds of dataset that a data manager can register at a node, one file a kind.

``get_kind(name)`` gives a kind; pandas, torch and Pillow are imported only when the kind that needs them is used.
"""

from polyclinic.node.dataset_kinds.kind import KINDS, DatasetKind, Found, get_kind

__all__ = ["KINDS", "DatasetKind", "Found", "get_kind"]
