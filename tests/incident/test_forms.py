"""What a report looks like: nothing of the log acts on a page, nothing is fetched, and the picture is where it should be."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.exposure.history import VENDORS, History
from vault.audit import Kind
from vault.encoding import json_bytes
from vault.exposure import Line, Picture, Span
from vault.incident import Report, report_of
from vault.incident.page import sketch
from vault.incident.plain import escaped

SCHEMA = Path(__file__).parents[2] / "docs" / "reference" / "incident-report.schema.json"
#: Names that would act on a page, in a picture, or in Markdown, if they were let.
HOSTILE = (
    '<script>alert("x")</script>',
    "</text></svg><image href=x onerror=alert(1)>",
    "[click](javascript:alert(1)) ![x](//evil.example/x.png)",
    "a | b\n# heading\n`code` **bold** <b>",
    "\u202egnp.exe\x1b[31m\x00",
    "'\"><img src=x>",
    "&lt;not&amp;",
)


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def generated() -> Report:
    """A report of a generated history."""
    return report_of(History(11).run(1500).entries, VENDORS["acme"])


@pytest.fixture(scope="module")
def hostile() -> Report:
    """A report of a log whose every text is hostile."""
    model = History(1)

    def add(kind: Kind, **fields: Any) -> int:
        model.add(kind, **fields)
        return len(model.entries)

    vendor = "a" * 32
    model.entries.clear()
    one, two, three, four, five, six, seven = HOSTILE
    who = {
        "vendor_id": vendor, "vendor": one, "credential": two, "delegates": [{"id": three, "to": four}],
        "subject": five, "address": six, "grant": seven, "purpose": one, "dataset": two, "dataset_id": three, "version": 1,
    }  # fmt: skip
    add(Kind.VENDOR_ADDED, vendor=one, vendor_id=vendor)
    add(
        Kind.PUBLISHED, dataset=two, dataset_id=three, version=1, rows=10, columns=list(HOSTILE), column_ids=list(HOSTILE),
        groups=list(HOSTILE), layout=[[0, 0, 10, None]], base=None,
    )  # fmt: skip
    add(
        Kind.GRANTED, vendor=one, vendor_id=vendor, grant=seven, dataset=two, dataset_id=three, columns=list(HOSTILE),
        column_ids=list(HOSTILE), cuts={}, where=four, purpose=one, masks={one: two}, versions="latest", limits={one: 5},
        delivery="stream",
    )  # fmt: skip
    add(
        Kind.CREDENTIAL_ISSUED,
        vendor=one,
        vendor_id=vendor,
        credential=two,
        key=None,
        networks=[four],
        provider={"issuer": six},
    )
    read = add(
        Kind.READ_BEGUN, **who, delivery="stream", columns=list(HOSTILE), column_ids=list(HOSTILE), groups=[one],
        epochs={one: 1}, compartment=two, shards=[[0, 0]], where=one, filtered=True, limit=None, masks={one: two}, resumed=None,
    )  # fmt: skip
    add(Kind.READ_ENDED, **who, read=read, served=[{"shards": [0, 0]}], rows=10, bytes=100, outcome="complete")
    broken = add(
        Kind.READ_BEGUN, **who, delivery="stream", columns=[one], column_ids=[one], groups=[], epochs={}, compartment=two,
        shards=[[0, 0]], where=None, filtered=False, limit=3, masks={}, resumed=None,
    )  # fmt: skip
    add(Kind.READ_ENDED, **who, read=broken, served=[], rows=0, bytes=0, outcome=four)
    add(Kind.REFUSED, **{**who, "reason": one, "columns": [six]})
    add(
        Kind.FANNED_OUT,
        vendor=four,
        vendor_id="b" * 32,
        dataset=two,
        dataset_id=three,
        version=1,
        shards=[[0, 0]],
        column_ids=list(HOSTILE),
        columns=[],
    )
    model.add(Kind.KEYS_OPENED, keys=[[two, one, 1]], process=five)
    sent = {"vendor": one, "vendor_id": vendor, "submission": two, "grant": three, "dataset": four, "dataset_id": five}
    add(Kind.SUBMITTED, **sent, credential=six, address=seven, rows=1, bytes=2, version=1, delegates=who["delegates"])
    add(Kind.SUBMISSION_ACCEPTED, **sent, version=2, columns=list(HOSTILE), column_ids=list(HOSTILE))
    add(Kind.FROZEN, vendor=one, vendor_id=vendor, reason=two)
    return report_of(model.entries, vendor)


@pytest.mark.parametrize("which", ["generated", "hostile"])
def test_a_page_refers_to_nothing(which: str, request: pytest.FixtureRequest) -> None:
    """No script, no link, nothing that a browser would fetch; what is painted is in the page itself."""
    text = request.getfixturevalue(which).html().decode()
    page = Page(text)
    assert not {tag for tag, _ in page.elements} & {
        "script", "link", "img", "image", "iframe", "object", "embed", "use", "a", "base", "form", "video", "audio",
    }  # fmt: skip
    for _, attributes in page.elements:
        assert not {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
    style = text[text.index("<style>") : text.index("</style>")]
    assert set(re.findall(r"url\([^)]*\)", style)) == {"url(#hatch)"}
    assert "@import" not in style
    assert "://" not in style
    assert "default-src 'none'" in text


def test_what_the_log_says_is_text(hostile: Report) -> None:
    """Markup in names stands on the page as it was written, and is no markup of the page."""
    text = hostile.html().decode()
    assert "<script" not in text
    assert "<img" not in text
    assert "onerror=alert(1)>" not in text.replace("onerror=alert(1)&gt;", "")
    page = Page(text)
    for name in HOSTILE:
        shown = "".join(each if each.isprintable() else "·" for each in name)
        assert shown in page.text or shown[:29] in page.text
    for acting in ("\u202e", "\x1b", "\x00"):
        assert acting not in text


def test_markdown_is_text(hostile: Report) -> None:
    """Nothing of the log is a heading, link, picture, code, cell or tag of the Markdown."""
    text = hostile.markdown().decode()
    assert not re.search(r"(?<!\\)<", text)
    assert not re.search(r"(?<!\\)\[click", text)
    assert not re.search(r"(?<!\\)!\\?\[", text)
    assert "\n# heading" not in text
    assert not re.search(r"(?<!\\)`", text)
    assert "\x1b" not in text
    assert escaped("a|b<c>") == "a\\|b&lt;c>"
    assert escaped("1. see https://x.example www.x.example a@x.example") == (
        "1\\. see https\\://x.example www\\.x.example a\\@x.example"
    )
    assert [escaped(text) for text in ("- a", "+b", "# c", "2026-01-01 00:00")] == [
        "\\- a", "+b", "\\# c", "2026-01-01 00:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1", "2001:db8::1", "annotator_confidence_score", "score > 3", "a < b", "a & b", "-3", "2 * 3", "1.5 rows",
     "{x: 1}", "50 rows: 0–49", "a=b", "(s)", "what!", "C#", "12.000"],
)  # fmt: skip
def test_markdown_escapes_nothing_that_does_not_act(text: str) -> None:
    """Addresses, names and comparisons stand in the source as they are."""
    assert escaped(text) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("1) a", "1\\) a"), ("12.", "12\\."), ("---", "\\---"), ("===", "\\==="), ("- - -", "\\- - -"), ("+", "\\+"),
        ("_a_", "\\_a\\_"), ("**a**", "\\*\\*a\\*\\*"), ("a*b", "a\\*b"), ("&lt;", "&amp;lt;"), ("&#60;", "&amp;\\#60;"),
        ("> a", "\\> a"), ("<!-- a", "&lt;!-- a"), ("    code", "code"), ("~~a~~", "\\~\\~a\\~\\~"), ("a\\", "a\\\\"),
        ("![a](b)", "\\!\\[a](b)"), ("see #12", "see \\#12"), ("$a$", "\\$a\\$"),
    ],
)  # fmt: skip
def test_markdown_escapes_what_acts(text: str, written: str) -> None:
    """Lists, rules, headings, emphasis, entities, tags, links and code."""
    assert escaped(text) == written


@given(st.text(alphabet="ab1 .)(-+*_=#>`~[]!<>&;:/\\\\|$@", max_size=12))
@example("a_b_c*d*")
@example("<b>&amp;")
def test_markdown_is_read_back_as_the_text(text: str) -> None:
    """To a parser of CommonMark what is written is one paragraph of plain text, in a list as well."""
    for before in ("", "- "):
        tokens = MarkdownIt("commonmark").parse(before + escaped(text))
        inline = [token for token in tokens if token.type == "inline"]
        kinds = {token.type for token in tokens} - {"inline", "paragraph_open", "paragraph_close"}
        assert kinds <= {"bullet_list_open", "list_item_open", "list_item_close", "bullet_list_close"}
        assert len(inline) <= 1
        assert len([token for token in tokens if token.type == "list_item_open"]) == len(before.strip())
        assert {child.type for token in inline for child in token.children or []} <= {"text", "text_special"}
        shown = "".join(child.content for token in inline for child in token.children or [])
        assert shown.split() == text.split()


def test_every_table_of_markdown_is_even(hostile: Report) -> None:
    """The rows of a table have as many cells as its head."""
    head = None
    for line in hostile.markdown().decode().splitlines():
        if not line.startswith("|"):
            head = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line))
        head = head or cells
        assert cells == head


@pytest.mark.parametrize("which", ["generated", "hostile"])
def test_json_is_canonical_and_fits_its_schema(which: str, request: pytest.FixtureRequest) -> None:
    """One form of bytes, and the schema in the reference."""
    data = request.getfixturevalue(which).json()
    document = json.loads(data)
    assert json_bytes(document) + b"\n" == data
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(document)
    for column in document["columns"]:
        for place in ("exact", "at_most", "not_read"):
            if column[place] is not None:
                rows = document["sets"][column[place]]
                assert rows["rows"] == sum(last - first + 1 for first, last in rows["ranges"])


def test_a_report_of_the_format_before_has_nothing_of_what_came_back(hostile: Report) -> None:
    """A bundle that an older release made is held against its own format: without the field, and the sentences."""
    now, before = json.loads(hostile.json()), json.loads(hostile.json(0))
    assert (now["format"], before["format"]) == ([1, 1], [1, 0])
    assert len(now.pop("submissions")) == 1
    assert len(now["summary"]) == len(before["summary"]) + 2
    assert {**now, "format": [1, 0], "summary": before["summary"]} == before


def test_the_same_log_gives_the_same_bytes() -> None:
    """A report follows from the log and nothing else."""
    told = History(3).run(600).entries
    one, other = (report_of(told, VENDORS["acme"]) for _ in range(2))
    assert (one.html(), one.json(), one.markdown()) == (other.html(), other.json(), other.markdown())


def _svg(report: Report) -> ET.Element:
    text = report.html().decode()
    return ET.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])


@pytest.mark.parametrize("which", ["generated", "hostile"])
def test_the_picture_stays_in_its_frame(which: str, request: pytest.FixtureRequest) -> None:
    """Every box lies between the names and the amounts, in a row of its own, with text that no box covers."""
    svg = _svg(request.getfixturevalue(which))
    width, height = map(float, svg.attrib["viewBox"].split()[2:])
    rows = svg.findall("./g")
    assert rows
    tops: list[float] = []
    for row in rows:
        boxes = row.findall("rect")
        ys = [(float(box.attrib["y"]), float(box.attrib["y"]) + float(box.attrib["height"])) for box in boxes]
        label, amount = row.findall("text")
        tops.append(float(label.attrib["y"]) - 13)
        for box, (top, bottom) in zip(boxes, ys, strict=True):
            left = float(box.attrib["x"])
            assert 230 <= left <= left + float(box.attrib["width"]) <= 991
            assert tops[-1] <= top < bottom <= tops[-1] + 19
        assert float(label.attrib["x"]) < 230
        assert 990 < float(amount.attrib["x"]) < width
    assert all(later - earlier >= 20 for earlier, later in pairwise(tops))
    assert tops[-1] + 20 <= height
    assert all(0 <= float(text.attrib["x"]) <= width for text in svg.iter("text"))


def test_the_picture_tells_exact_from_at_most() -> None:
    """Exact boxes, hatched boxes, the band of a grant and the line of a freeze lie at their times."""
    day = 86_400_000_000
    exact, bound = [0] * 120, [0] * 120
    exact[0:60] = [5] * 60
    bound[90:120] = [7] * 30
    line = Line("evals", "prompt", tuple(exact), tuple(bound), (Span(0, 6 * day),), 12, 7)
    drawn = sketch(Picture(0, 12 * day, (line,), (Span(9 * day, None),)))
    (row,) = drawn["lines"]
    assert [(box.x, box.width) for box in row["exact"]] == [(230.0, 380.0)]
    assert [(box.x, box.width) for box in row["bound"]] == [(800.0, 190.0)]
    assert [(box.x, box.width) for box in row["open"]] == [(230.0, 380.0)]
    assert [(box.x, box.width) for box in drawn["frozen"]] == [(800.0, 190.0)]
    assert row["amount"] == "12 + at most 7"


def test_too_many_columns_are_said_to_be_left_out() -> None:
    """The picture has the columns of which most was served, and says how many it does not have."""
    lines = tuple(Line("evals", f"c{n}", (0,) * 120, (0,) * 120, (), n, 0) for n in range(100))
    drawn = sketch(Picture(0, 10, lines, ()))
    assert [row["column"] for row in drawn["lines"]] == [f"c{n}" for n in range(40, 100)]
    assert drawn["left_out"].startswith("40 more columns")


def test_the_first_sentence_says_it_all(generated: Report) -> None:
    """Exactly so much, and at most so much more."""
    first, second = generated.summary()[:2]
    assert first.startswith("acme was served exactly ")
    assert second.startswith("At most ")
