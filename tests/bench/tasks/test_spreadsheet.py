"""Workbooks are read as they and other programs write them; what is none is refused in one line."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import pytest

from bench.tasks import spreadsheet
from bench.tasks.spreadsheet import HEAD, MAIN, PARTS, read_workbook, workbook


def book(path: Path, rows: str, shared: str = "") -> Path:
    """A workbook with these rows and shared strings."""
    sheet = f'<worksheet xmlns="{MAIN}"><sheetData>{rows}</sheetData></worksheet>'
    with ZipFile(path, "w") as file:
        for name, content in (PARTS | {"xl/worksheets/sheet1.xml": sheet}).items():
            file.writestr(name, HEAD + content)
        if shared:
            file.writestr("xl/sharedStrings.xml", f'{HEAD}<sst xmlns="{MAIN}">{shared}</sst>')
    return path


def test_what_we_write_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    path.write_bytes(workbook(["index", "prediction"], [[3, "A & <B>\n"], [4, "的"]]))
    assert read_workbook(path) == [
        {"index": 3.0, "prediction": "A & <B>\n"},
        {"index": 4.0, "prediction": "的"},
    ]


def test_cells_are_of_every_kind(tmp_path: Path) -> None:
    """Shared and formatted texts, truths, errors, results of formulas, and cells that are left out."""
    shared = (
        "<si><t>name</t></si><si><t>value</t></si>"
        "<si><r><t>a_x000D_</t></r><r><t>b</t></r><rPh><t>say</t></rPh></si>"
    )
    rows = (
        '<row r="1"><c r="A1" t="s"><v>0</v></c><c r="AB1" t="s"><v>1</v></c></row>'
        '<row r="2"><c r="AB2" t="b"><v>1</v></c></row><row r="3"/>'
        '<row r="4"><c r="A4" t="s"><v>2</v></c><c r="AB4" t="e"><v>#N/A</v></c></row>'
        '<row r="5"><c r="A5" t="str"><f>A1</f><v>x</v></c><c r="AB5"><v>0.25</v></c></row>'
    )
    assert read_workbook(book(tmp_path / "book.xlsx", rows, shared)) == [
        {"name": None, "value": True},
        {"name": "a\rb", "value": None},
        {"name": "x", "value": 0.25},
    ]


@pytest.mark.parametrize(
    "content", [b"", b"index\tprediction\n", b"PK\x03\x04 cut off"], ids=["empty", "text", "cut"]
)
def test_what_is_no_workbook_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="book.xlsx: not a whole Excel workbook"):
        read_workbook(path)


def test_broken_parts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "book.xlsx"
    whole = workbook(["index"], [[number] for number in range(400)])
    path.write_bytes(whole[:500] + bytes(200) + whole[700:])
    with pytest.raises(ValueError, match="book.xlsx: not a whole Excel workbook"):
        read_workbook(path)
    for rows, why in (
        ('<row r="1"><c r="A1" t="s"><v>7</v></c></row>', "not a whole"),
        ('<row r="1"><c r="A1"><v>one</v></c></row>', "not a whole"),
        ('<row><c t="str"><v>a</v></c><c t="str"><v>a</v></c></row>', "the column a is there twice"),
    ):
        with pytest.raises(ValueError, match=why):
            read_workbook(book(path, rows))
    monkeypatch.setattr(spreadsheet, "LARGEST", 10)
    with pytest.raises(ValueError, match="larger than 1 GiB"):
        read_workbook(book(path, ""))
