"""Tables as Excel workbooks (ECMA-376): predictions for MMBench's server, and grades from VLMEvalKit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree
from xml.sax.saxutils import escape
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo
from zlib import error as ZlibError

from compress.documents import regular_file
from evosearch.registry import cut

HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
LINKS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
KIND = "application/vnd.openxmlformats-officedocument.spreadsheetml"
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")  # in XML 1.0
LONGEST = 32767  # characters of a cell
LARGEST = 1 << 30  # bytes of a part, unpacked
BROKEN = (
    BadZipFile, ElementTree.ParseError, ZlibError, NotImplementedError, AttributeError, LookupError,
    ValueError, EOFError, OSError,
)  # fmt: skip
ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")  # a character that XML forbids
PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{KIND}.sheet.main+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{KIND}.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{LINKS}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{LINKS}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{LINKS}">'
    '<sheets><sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>',
}


def workbook(header: Sequence[str], rows: Sequence[Sequence[str | int]]) -> bytes:
    """The content of an xlsx file, equal for equal tables. Characters that XML forbids are left out."""
    lines = "".join(
        f'<row r="{number}">' + "".join(map(_cell, row)) + "</row>"
        for number, row in enumerate([header, *rows], 1)
    )
    sheet = f'<worksheet xmlns="{MAIN}"><sheetData>{lines}</sheetData></worksheet>'
    file = BytesIO()
    with ZipFile(file, "w") as book:
        for name, content in (PARTS | {"xl/worksheets/sheet1.xml": sheet}).items():
            book.writestr(ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), HEAD + content, ZIP_DEFLATED)
    return file.getvalue()


def _cell(value: str | int) -> str:
    if isinstance(value, int):
        return f"<c><v>{value}</v></c>"
    text = escape(FORBIDDEN.sub("", value)[:LONGEST])
    return f'<c t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>'


def read_workbook(path: Path) -> list[dict[str, str | float | bool | None]]:
    """Read the rows of the first sheet by the names in its first row; empty cells are None.

    ValueError for an invalid workbook, for a repeated column, and for parts above 1 GiB.
    """
    try:
        with ZipFile(regular_file(path)) as book:
            if huge := [one.filename for one in book.infolist() if one.file_size > LARGEST]:
                raise ValueError(f"{huge[0]} in it is larger than 1 GiB")
            shared = list(_shared(book))
            root = ElementTree.fromstring(book.read(_first_sheet(book)))
            rows = [_row(one, shared) for one in root.iter(f"{{{MAIN}}}row")]
    except BROKEN as problem:
        raise ValueError(f"{path}: not a whole Excel workbook ({cut(problem, 200)})") from problem
    header = {column: str(name) for column, name in (rows[0] if rows else {}).items() if name is not None}
    names = list(header.values())
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path}: the column {cut(twice[0])} is there twice: keep the one you mean")
    return [{name: row.get(column) for column, name in header.items()} for row in rows[1:] if row]


def _first_sheet(book: ZipFile) -> str:
    """The name of the first sheet in the archive."""
    sheet = ElementTree.fromstring(book.read("xl/workbook.xml")).find(f".//{{{MAIN}}}sheet")
    wanted = sheet.attrib[f"{{{LINKS}}}id"]  # type: ignore[union-attr]
    links = ElementTree.fromstring(book.read("xl/_rels/workbook.xml.rels"))
    (target,) = [one.attrib["Target"] for one in links if one.attrib["Id"] == wanted]
    return str(PurePosixPath("xl") / target).lstrip("/")


def _shared(book: ZipFile) -> Iterator[str]:
    """Yield the texts that cells refer to by number."""
    if "xl/sharedStrings.xml" in book.namelist():
        for one in ElementTree.fromstring(book.read("xl/sharedStrings.xml")).iter(f"{{{MAIN}}}si"):
            yield _written(one)


def _written(item: ElementTree.Element) -> str:
    """The text of a cell or shared string, joined over its runs, without phonetic text."""
    told = [*item.findall(f"{{{MAIN}}}t"), *item.findall(f"{{{MAIN}}}r/{{{MAIN}}}t")]
    return ESCAPED.sub(lambda found: chr(int(found[1], 16)), "".join(one.text or "" for one in told))


def _row(row: ElementTree.Element, shared: Sequence[str]) -> dict[str, str | float | bool | None]:
    """Cells by the letters of their column; cells without an address are numbered."""
    found: dict[str, str | float | bool | None] = {}
    for number, cell in enumerate(row.iter(f"{{{MAIN}}}c")):
        column = re.sub("[0-9]", "", cell.get("r", "")) or str(number)
        found[column] = _value(cell, shared)
    return found


def _value(cell: ElementTree.Element, shared: Sequence[str]) -> str | float | bool | None:
    kind, inline = cell.get("t", "n"), cell.find(f"{{{MAIN}}}is")
    if inline is not None:
        return _written(inline)
    told = cell.findtext(f"{{{MAIN}}}v")
    if told is None or kind == "e":
        return None
    if kind == "s":
        return shared[int(told)]
    if kind == "b":
        return told == "1"
    return float(told) if kind == "n" else told
