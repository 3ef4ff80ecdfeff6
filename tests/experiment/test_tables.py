from polyclinic.experiment.tables import render_table


def test_a_table_has_its_cells_in_their_columns():
    text = render_table(["node", "value"], [["ash", "1.5"], ["birch", "10"]], title="Figures")
    lines = text.splitlines()
    assert lines[0].strip() == "Figures"
    assert [cell.strip() for cell in lines[-3].strip("│").split("│")] == ["ash", "1.5"]
    assert lines[-2].endswith("   10 │")  # numbers to the right
    assert "│ ash  " in text  # words to the left


def test_square_brackets_are_what_they_are():
    assert "[red]x[/red] [/]" in render_table(["[bold]"], [["[red]x[/red] [/]"]])


def test_long_cells_are_not_cut_and_short_rows_are_filled():
    text = render_table(["a", "b"], [["x" * 500], ["1", "2"]])
    assert "x" * 500 in text
    assert len({len(line) for line in text.splitlines()}) == 1
    assert render_table(["a"], [])
