import pytest
import torch
from torch.utils.data import TensorDataset

from polyclinic import InProcessFederation, simulate
from polyclinic.errors import DatasetChanged, FederationError, NoMatchingNodes, NotTrusted
from polyclinic.experiment.participants import find_participants
from polyclinic.federation.in_process import open_nodes
from polyclinic.messages.replies import Failure
from polyclinic.node.node import Node

TABLE = "{columns}\n" + "".join(f"{k % 7},{k % 5},{k % 2}\n" for k in range(20))


@pytest.fixture
def place(tmp_path):
    return tmp_path / "nodes"


@pytest.fixture
def add(place, tmp_path):
    """Registers a table at a node, which is made if it is not there."""
    nodes = {}

    def add_table(node_name, name, *tags, columns="age,pressure,ill", **options):
        if node_name not in nodes:
            nodes[node_name] = Node.create(place, node_name)
        path = tmp_path / f"{node_name}-{name}.csv"
        path.write_text(TABLE.format(columns=columns))
        nodes[node_name].registry.add("tabular", {"path": path, "target": "ill"} | options, tags=tags, name=name)
        return path

    return add_table


def found(place, *tags, only=None, min_nodes=None):
    return find_participants(InProcessFederation.at(place), tags, only, min_nodes)


def test_nodes_take_part_with_the_one_dataset_that_has_all_tags(add, place):
    add("Willow", "a", "heart", "2024")
    add("Ash", "b", "heart", "2024", "men")
    add("Ash", "c", "heart")
    add("Elm", "d", "lung")
    participants = found(place, "heart", "2024")
    assert [(p.node_id, p.name, p.dataset.name) for p in participants] == [
        ("ash", "Ash", "b"),
        ("willow", "Willow", "a"),
    ]
    assert participants[0].dataset.num_train + participants[0].dataset.num_test == 20


def test_no_node_has_the_tags(add, place):
    add("Ash", "a", "heart", "zebra")
    add("Elm", "b", "heart-disease", "lung")
    with pytest.raises(NoMatchingNodes, match="no node has a dataset with the tags 'hart'") as caught:
        found(place, "hart")
    assert caught.value.to_do.startswith("tags there are: heart, heart-disease, ")
    assert set(caught.value.to_do.removeprefix("tags there are: ").split(", ")) == {
        "heart",
        "heart-disease",
        "lung",
        "zebra",
    }
    with pytest.raises(NoMatchingNodes, match="the tags 'zebras', 'heart'") as caught:
        found(place, "zebras", "heart")
    assert caught.value.to_do.startswith("tags there are: heart, zebra, ")
    assert caught.value.code == "no-matching-nodes"


def test_no_node_has_a_dataset(place):
    Node.create(place, "Ash")
    with pytest.raises(NoMatchingNodes, match="none of 1 nodes has a dataset") as caught:
        found(place, "heart")
    assert "polyclinic node add-dataset" in caught.value.to_do


def test_two_datasets_at_one_node(add, place):
    add("Ash", "first", "heart")
    add("Ash", "second", "heart", "new")
    with pytest.raises(
        NoMatchingNodes, match="node 'Ash' has 2 datasets with the tags 'heart': 'first', 'second'"
    ) as e:
        found(place, "heart")
    assert "give a tag that only one of them has" in e.value.to_do
    assert [p.dataset.name for p in found(place, "new")] == ["second"]


@pytest.mark.parametrize("only", [["Elm Hospital"], ["elm-hospital"], ["Elm Hospital", "elm-hospital"]])
def test_nodes_are_chosen_by_name_or_id(add, place, only):
    for name in ("Ash", "Elm Hospital", "Oak"):
        add(name, "a", "heart")
    assert [p.node_id for p in found(place, "heart", only=only)] == ["elm-hospital"]


def test_a_node_that_is_not_there(add, place):
    add("Ash", "a", "heart")
    with pytest.raises(FederationError, match="there is no node 'Asch'") as caught:
        found(place, "heart", only=["Asch"])
    assert caught.value.to_do == "did you mean 'Ash'?"


def test_fewer_nodes_than_are_needed(add, place):
    add("Ash", "a", "heart")
    add("Elm", "b", "heart")
    assert len(found(place, "heart", min_nodes=2)) == 2
    with pytest.raises(
        NoMatchingNodes, match="2 nodes have data with the tags 'heart', min_nodes asks for 3: Ash, Elm"
    ):
        found(place, "heart", min_nodes=3)


def test_data_that_vanished_or_changed(add, place):
    gone, edited = add("Ash", "a", "heart"), add("Elm", "b", "heart")
    add("Oak", "c", "heart")
    gone.unlink()
    edited.write_text(edited.read_text().replace("3,", "4,"))
    with pytest.raises(
        DatasetChanged, match="data are not as they were registered: Ash: A file of the dataset has"
    ) as e:
        found(place, "heart")
    assert "; Elm: The content of the dataset's files has changed" in e.value.what
    assert "put the data back, or register the dataset again at that node" in e.value.to_do
    with pytest.warns(UserWarning, match="not as they were registered: Ash"):
        participants = found(place, "heart", min_nodes=1)
    assert [p.node_id for p in participants] == ["oak"]
    with pytest.raises(DatasetChanged):
        found(place, "heart", min_nodes=2)


def test_data_that_changed_but_were_not_asked_for(add, place, recwarn):
    add("Ash", "a", "heart").unlink()
    add("Elm", "b", "heart")
    assert [p.node_id for p in found(place, "heart", only=["Elm"])] == ["elm"]
    assert not recwarn.list


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"columns": "pressure,age,ill"}, "at number 1: 'age' and 'pressure'"),
        ({"features": "age"}, "at number 2: 'pressure' and none"),
        ({"columns": "age,weight,ill"}, "at number 2: 'pressure' and 'weight'"),
    ],
)
def test_columns_must_be_the_same_in_the_same_order(add, place, options, what):
    add("Ash", "a", "heart")
    add("Elm", "b", "heart", **options)
    with pytest.raises(FederationError, match=f"nodes 'Ash' and 'Elm' have different columns, {what}") as caught:
        found(place, "heart")
    assert "--features" in caught.value.to_do


def test_data_of_several_kinds_go_together_if_their_columns_have_no_names():
    parts = {name: TensorDataset(torch.ones(4, 2), torch.ones(4)) for name in ("b", "a")}
    assert [p.node_id for p in find_participants(simulate(parts), (), None, None)] == ["a", "b"]


def test_a_node_that_cannot_answer(add, place):
    add("Ash", "a", "heart")
    federation = InProcessFederation.at(place)
    (node,) = federation.each_node()
    node.registry = None
    with pytest.raises(FederationError, match="node ash could not answer: AttributeError"):
        find_participants(federation, ("heart",), None, None)


class NotTrusting(InProcessFederation):
    """Nodes of which some do not trust the researcher."""

    def __init__(self, place, *who):
        super().__init__(open_nodes(place))
        self.who = who

    def send(self, requests, deadline=None):
        for reply in super().send(requests, deadline):
            refusal = Failure(
                request_id=reply.request_id,
                node_id=reply.node_id,
                code="not-trusted",
                stage="receive",
                what=f"node {reply.node_id} does not trust researcher ada",
                to_do=f"its data manager can: polyclinic node trust {reply.node_id} ada",
            )
            yield refusal if reply.node_id in self.who else reply


def test_nodes_that_do_not_trust_the_researcher_are_left_out_with_a_warning(add, place):
    for name in ("Ash", "Elm", "Oak"):
        add(name, "a", "heart")
    federation = NotTrusting(place, "ash", "oak")
    what = "goes on without these: node ash does not trust researcher ada; node oak does not"
    with pytest.warns(UserWarning, match=what) as warned:
        participants = find_participants(federation, ("heart",), None, None)
    assert [p.node_id for p in participants] == ["elm"]
    to_do = "its data manager can: polyclinic node trust ash ada; its data manager can: polyclinic node trust oak ada"
    assert str(warned[0].message).endswith(f"\n{to_do}")
    with pytest.warns(UserWarning, match=what), pytest.raises(NoMatchingNodes, match="min_nodes asks for 2: Elm"):
        find_participants(federation, ("heart",), None, 2)


def test_no_node_that_trusts_the_researcher_is_left(add, place):
    add("Ash", "a", "heart")
    add("Elm", "b", "lung")
    what = "no node with the tags 'heart' works for you: node ash does not trust researcher ada"
    with pytest.raises(NotTrusted, match=what) as caught:
        find_participants(NotTrusting(place, "ash"), ("heart",), None, None)
    assert caught.value.to_do == "its data manager can: polyclinic node trust ash ada"


def test_no_node_at_all_trusts_the_researcher_who_looks_for_what_nobody_has(add, place):
    add("Ash", "a", "heart")

    class OfInterest(NotTrusting):
        """A hub's: whoever has nothing of what is searched does not say that it refuses."""

        def send(self, requests, deadline=None):
            (request,) = requests.values()
            return InProcessFederation.send(self, requests) if request.tags else super().send(requests)

    with pytest.raises(NotTrusted, match="no node with data works for you: node ash does not trust"):
        find_participants(OfInterest(place, "ash"), ("hart",), None, None)
