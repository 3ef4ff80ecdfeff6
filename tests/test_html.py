from html.parser import HTMLParser

from polyclinic.html import element, figure, page, table

NASTY = "<b> & \"quotes\" 'and' </table>"


class Reader(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.attributes = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_data(self, data):
        self.texts.append(data)


def test_text_is_escaped_everywhere():
    parts = [
        element("p", NASTY),
        figure("data:,", NASTY, NASTY, NASTY),
        table([NASTY, "x"], [[NASTY, NASTY]], NASTY, words=[1]),
    ]
    read = Reader(page(NASTY, "", parts))
    assert "b" not in read.tags
    assert read.texts.count(NASTY) == 8
    assert [a["alt"] for a in read.attributes if "alt" in a] == [NASTY]


def test_a_table_has_a_caption_and_heads_of_rows_and_columns():
    read = Reader(table(["method", "n", "why"], [["A", "1", "x"], ["B", "2", "y"]], "What it is", words=[2]))
    assert read.tags.count("caption") == 1
    scopes = [a["scope"] for a in read.attributes if "scope" in a]
    assert scopes == ["col", "col", "col", "row", "row"]
    classes = [a.get("class") for a, tag in zip(read.attributes, read.tags, strict=True) if tag == "td"]
    assert classes == ["number", "detail", "number", "detail"]
