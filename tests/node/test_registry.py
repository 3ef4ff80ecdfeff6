import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update
from sqlalchemy.orm import Session

from polyclinic.errors import ConfigError, DatasetChanged, DatasetError, NodeError
from polyclinic.node.database import DatasetRow, open_database
from polyclinic.node.database_registry import DatabaseRegistry
from polyclinic.node.registry import identifier

TABLE = "age,sex,ill\n" + "".join(f"{40 + k},{k % 2},{k % 3 % 2}\n" for k in range(20))


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "ward.csv"
    path.write_text(TABLE)
    return path


@pytest.fixture
def engine(tmp_path):
    return open_database(tmp_path / "node.sqlite")


@pytest.fixture
def registry(engine):
    return DatabaseRegistry(engine)


def test_what_is_added_is_there_also_for_another_program(table, engine, tmp_path):
    added = DatabaseRegistry(engine).add(
        "tabular", {"path": table, "target": "ill"}, tags=["heart", " ward ", "heart", ""], name="The Ward"
    )
    (found,) = DatabaseRegistry(open_database(tmp_path / "node.sqlite")).datasets()
    assert found.dataset_id == added.dataset_id == "the-ward"
    assert (found.name, found.tags) == ("The Ward", ("heart", "ward"))
    assert found.params == added.params
    assert found.found == added.found
    info = found.info()
    assert (info.num_train + info.num_test, info.features, info.problem) == (20, ("age", "sex"), "")
    assert len(found.load(train=True)) == info.num_train


def test_datasets_come_by_id(table, registry):
    for name in ("b", "c", "a"):
        registry.add("tabular", {"path": table, "target": "ill"}, tags=["t"], name=name)
    assert [dataset.dataset_id for dataset in registry.datasets()] == ["a", "b", "c"]
    registry.remove("b")
    assert [dataset.dataset_id for dataset in registry.datasets()] == ["a", "c"]
    assert table.exists()


def test_removing_what_is_not_there(table, registry):
    registry.add("tabular", {"path": table, "target": "ill"}, tags=["t"], name="ward")
    with pytest.raises(NodeError, match="this node has no dataset 'wart'") as caught:
        registry.remove("wart")
    assert caught.value.to_do == "did you mean 'ward'?"


@pytest.mark.parametrize(
    ("kind", "options", "given", "error", "what", "to_do"),
    [
        ("tabula", {}, {}, ConfigError, "unknown kind of dataset 'tabula'", "did you mean 'tabular'?"),
        ("tabular", {"targe": "ill"}, {}, ConfigError, "unknown option of tabular datasets 'targe'", "'target'"),
        ("tabular", {}, {}, ConfigError, "missing setting path, target", "give --path and --target"),
        ("tabular", {"path": "no.csv", "target": "y"}, {}, DatasetError, "there is no file", "--path"),
        ("tabular", None, {"tags": []}, ConfigError, "a dataset needs at least one tag", "--tags"),
        ("tabular", None, {"tags": [" "]}, ConfigError, "a dataset needs at least one tag", "--tags"),
        ("tabular", None, {"tags": "heart"}, ConfigError, "tags is a list, got the text 'heart'", "tags=['heart']"),
        ("tabular", None, {"name": "WARD"}, ConfigError, "has a dataset named 'WARD' already", "choose another name"),
        ("tabular", None, {"name": "?!"}, ConfigError, "the name '\\?!' has no letter or digit", "choose a name"),
    ],
)
def test_what_is_refused_leaves_nothing(table, registry, kind, options, given, error, what, to_do):
    registry.add("tabular", {"path": table, "target": "ill"}, tags=["t"], name="ward")
    options = {"path": table, "target": "ill"} if options is None else options
    with pytest.raises(error, match=what) as caught:
        registry.add(kind, options, **({"tags": ["t"], "name": "second"} | given))
    assert to_do in caught.value.to_do
    assert [dataset.name for dataset in registry.datasets()] == ["ward"]


@pytest.mark.parametrize(
    "changed",
    [
        {"params": {"path": "t.csv", "target": "y", "an_option_of_later": 1}},
        {"params": {}},
        {"found": {"num_train": 1}},
        {"dataset_kind": "genomes"},
    ],
)
def test_a_dataset_of_another_version(table, engine, registry, changed):
    registry.add("tabular", {"path": table, "target": "ill"}, tags=["t"], name="ward")
    with Session(engine) as session:
        session.execute(update(DatasetRow).values(**changed))
        session.commit()
    with pytest.raises(DatasetError, match="'ward' was registered by another version of Polyclinic") as caught:
        registry.datasets()
    assert caught.value.to_do == "remove it from the node and register it again"
    registry.remove("ward")
    assert registry.datasets() == []


def test_a_table_is_compared_before_each_use(table, registry):
    dataset = registry.add("tabular", {"path": table, "target": "ill"}, tags=["t"], name="ward")
    dataset.require_unchanged()
    table.write_text(TABLE.replace("40,", "41,"))
    with pytest.raises(DatasetChanged, match="dataset 'ward' is not as it was registered: The content of") as caught:
        dataset.require_unchanged()
    assert "put the data back, or register the dataset again" in caught.value.to_do
    table.unlink()
    with pytest.raises(DatasetChanged, match=r"ward\.csv is not there any more"):
        dataset.require_unchanged()
    assert dataset.info().problem == dataset.problem() == "A file of the dataset has vanished."
    table.write_text(TABLE)
    dataset.require_unchanged()


# ---- identifiers


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Guy's Hospital", "guy-s-hospital"),
        ("  Saint–Antoine / Paris  ", "saint-antoine-paris"),
        ("Universitätsklinik Gießen", "universitatsklinik-giessen"),
        ("UNIVERSITÄTSKLINIK GIESSEN", "universitatsklinik-giessen"),
        ("Fundação São João", "fundacao-sao-joao"),
        ("４２", "42"),
        ("x" * 99, "x" * 60),
    ],
)
def test_an_identifier_reads_like_the_name(name, expected):
    assert identifier(name) == expected


def test_names_in_other_scripts_have_identifiers_of_their_own():
    names = ["北京医院", "上海医院", "Νοσοκομείο 1", "Больница 1", "بيمارستان ۱", "病院", "Ward 病院", "Łódź", "Zódź"]
    found = [identifier(name) for name in names]
    assert len(set(found)) == len(names)
    assert all(one.isascii() for one in found)
    assert identifier("Ward 病院").startswith("ward-")
    assert identifier("北京医院") == identifier("北京医院")


@pytest.mark.parametrize("name", ["", " ", "?!", "—", "🏥"])
def test_a_name_without_letters_or_digits_is_refused(name):
    with pytest.raises(ConfigError, match="has no letter or digit"):
        identifier(name)


@given(st.text())
def test_an_identifier_names_a_folder_and_does_not_depend_on_case_or_spelling(name):
    if not any(map(str.isalnum, name)):
        return
    found = identifier(name)
    assert found
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert len(found) < 80
    assert identifier(f"  {name}\t") == found
