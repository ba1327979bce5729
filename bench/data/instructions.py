"""Records of LLaVA-1.5's instruction mixture (mix665k) and files of its form: the training data for labels.

    {"id": "000000033471", "image": "coco/train2017/000000033471.jpg", "conversations": [
        {"from": "human", "value": "<image>\\nWhat are the colors of the bus in the image?"},
        {"from": "gpt", "value": "The bus in the image is white and red."}, ...]}

The file is one JSON array of 665,298 records; 40,688 have no image, ids repeat, and some pictures of OCR-VQA
are missing or broken. Records are therefore named by their position and stay in the file; an index stores the
byte offset of each. Unusable records are counted and left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.data import records
from bench.tasks.images import ImageFile
from bench.yaml_files import read_yaml
from compress.documents import Document, checked, parse, regular_file
from compress.files import replacing
from compress.progress import Progress
from compress.samples import Catalogue, Sample
from evosearch.registry import cut, unknown

Turns = Literal["first", "random", "all"]
RULES = Path(__file__).with_name("sources.yaml")
KEY = b"evocomp instructions"
FORMAT = 1
BLOCK = 4096  # records per batch of the table
_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a surrogate pair, which JSON may escape
UNCHECKED, UNUSABLE = -1, -2  # stored instead of a picture's size
INDEX = pa.schema(
    [
        ("position", pa.int32()),  # of the record in the array
        ("start", pa.int64()),  # its first byte in the file
        ("length", pa.int32()),  # bytes
        ("turns", pa.list_(pa.int16())),  # indices of the turns with question and answer
        ("source", pa.dictionary(pa.int32(), pa.string())),
        ("image", pa.string()),
        ("size", pa.int64()),  # bytes of the picture, once it has been opened
    ]
)


@dataclass(frozen=True)
class Rule:
    """The pattern of a source's records; empty fields match everything."""

    __pydantic_config__ = {"extra": "forbid", "strict": True}

    source: str
    folder: str = ""
    ends: str = ""
    contains: str = ""

    def fits(self, image: str, question: str) -> bool:
        return (
            image.partition("/")[0] == (self.folder or image.partition("/")[0])
            and question.endswith(self.ends)
            and self.contains in question
        )


def read_rules(path: Path = RULES) -> tuple[Rule, ...]:
    """Read the rules of a YAML file in their order; ValueError if it is not a list of rules."""
    try:
        return checked(tuple[Rule, ...], read_yaml(path), path)
    except ValueError as problem:
        raise ValueError(f"{problem}; write a list of {{source, folder, ends, contains}}") from problem


@dataclass(frozen=True)
class Defect:
    """The number of records or turns with one defect, and the first of them."""

    count: int
    first: str  # where


class _ManifestDocument(Document):
    """The metadata of a manifest."""

    format: int
    file: str
    sha256: str
    left_out: Mapping[str, Defect]


@dataclass(frozen=True, eq=False)
class Index:
    """The positions of a file's usable records, and the counts of those left out.

    `digest` is the file's SHA-256. A manifest is an index whose pictures have all been opened.
    """

    path: Path
    digest: str
    table: pa.Table
    left_out: dict[str, Defect]

    @staticmethod
    def of(path: Path, rules: Sequence[Rule] | None = None) -> Index:
        """Index a file in one pass, one record at a time; ValueError if it is no such file."""
        rules = read_rules() if rules is None else rules
        left_out: dict[str, Defect] = {}
        rows = _usable(path, rules, left_out)
        batches = []
        while block := list(islice(rows, BLOCK)):
            batches.append(pa.RecordBatch.from_pylist(block, INDEX))
        if not batches:
            counted = "; ".join(f"{reason}: {one.count}" for reason, one in left_out.items()) or "it is empty"
            raise ValueError(f"{path}: no record has an image, a question and an answer ({counted})")
        return Index(path, digest(path), pa.Table.from_batches(batches).unify_dictionaries(), left_out)

    def checked(self, images: Path, *, workers: int = 1, progress: Progress | None = None) -> Index:
        """Return a manifest: open every picture, in `workers` processes; leave out records without one."""
        from compress.parallel.workers import each

        names = pc.unique(self.table["image"]).to_pylist()
        sizes: dict[str, int] = {}
        left_out = dict(self.left_out)
        for name, (size, why) in each(partial(_opened, images), names, workers, ordered=True):
            sizes[name] = size
            if size == UNUSABLE:
                _count(left_out, why, name)
            if progress:
                progress(len(sizes), len(names))
        known = pa.array(list(sizes.values()), pa.int64())
        places = pc.index_in(self.table["image"], value_set=pa.array(list(sizes), pa.string()))
        table = self.table.set_column(
            INDEX.get_field_index("size"), INDEX.field("size"), pc.take(known, places)
        )
        table = table.filter(pc.not_equal(table["size"], UNUSABLE))
        if not len(table):
            raise ValueError(f"none of the {len(names)} pictures below {images} can be opened")
        return Index(self.path, self.digest, table, left_out)

    def save(self, path: Path) -> None:
        told = {
            "format": FORMAT, "file": self.path.name, "sha256": self.digest,
            "left_out": {reason: vars(one) for reason, one in self.left_out.items()},
        }  # fmt: skip
        with replacing(path) as part:
            pq.write_table(self.table.replace_schema_metadata({KEY: json.dumps(told)}), part)

    @staticmethod
    def load(path: Path, data: Path) -> Index:
        """Load the manifest at `path`; ValueError if it is none, or not the manifest of the file `data`."""
        wrong = "not a manifest; make one with evocomp data check"
        try:
            table = pq.read_table(regular_file(path), partitioning=None)
        except FileNotFoundError:
            raise ValueError(f"there is no manifest {path}: make one with evocomp data check") from None
        except (OSError, pa.ArrowException) as problem:
            raise ValueError(f"{path}: {wrong}") from problem
        metadata = table.schema.metadata or {}
        if KEY not in metadata or not table.schema.equals(INDEX):
            raise ValueError(f"{path}: {wrong}")
        told = parse(_ManifestDocument, metadata[KEY], path)
        if told.format != FORMAT:
            raise ValueError(f"{path}: format {told.format}, but this version reads format {FORMAT}")
        lists = table["turns"]
        if (
            any(column.null_count for column in (*table.columns, pc.list_flatten(lists)))
            or not pc.all(pc.greater(pc.list_value_length(lists), 0)).as_py()
        ):
            raise ValueError(f"{path}: it has nulls or empty lists of turns: make a new one with "
                             f"evocomp data check")  # fmt: skip
        if digest(data) != told.sha256:
            raise ValueError(
                f"{path} is the manifest of another {cut(told.file)} than {data}: make a new one with "
                f"evocomp data check"
            )
        return Index(data, told.sha256, table.replace_schema_metadata(), dict(told.left_out))

    @property
    def counts(self) -> dict[str, int]:
        """The number of records of each source, the largest first."""
        found = pc.value_counts(self.table["source"].combine_chunks()).to_pylist()
        ranked = sorted(found, key=lambda one: (-one["counts"], one["values"]))
        return {one["values"]: one["counts"] for one in ranked}


class Instructions(Catalogue):
    """Questions of an index as samples, each read from the file on access.

    `turns`: the first question of each record, a random one by `seed`, or all of them. A question is asked
    without the preceding ones, because a label is about one question; "What colour is it?" may then be hard
    to understand. A sample has the same name and content under each of the three, so that its label serves
    all of them.

    `sources` restricts the sources. `n` restricts the number of samples evenly: to those whose names have the
    lowest hashes, so that smaller sets are subsets of larger ones.
    """

    def __init__(
        self,
        index: Index,
        images: Path,
        *,
        turns: Turns = "first",
        seed: int = 0,
        sources: Sequence[str] | None = None,
        n: int | None = None,
    ):
        self._index, self.images, self.name = index, images, index.path.stem
        table = index.table
        if sources is not None:
            for one in sources:
                if one not in index.counts:
                    raise ValueError(unknown("source", one, list(index.counts)))
            table = table.filter(pc.is_in(table["source"], value_set=pa.array(sources, pa.string())))
        self._table = table.combine_chunks()
        self._positions = table["position"].to_numpy()
        self._rows, self._turns = self._chosen(turns, seed)
        if n is not None and n < len(self):
            ranks = [hashlib.sha256(self.key(place).encode()).digest()[:8] for place in range(len(self))]
            places = np.sort(np.argsort(np.array(ranks, "S8"), kind="stable")[:n])
            self._rows, self._turns = self._rows[places], self._turns[places]

    def _chosen(self, turns: Turns, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the row and the turn of each sample."""
        if turns not in get_args(Turns):
            raise ValueError(unknown("policy of turns", turns, get_args(Turns)))
        offered = self._table["turns"].combine_chunks()
        values, ends = offered.flatten().to_numpy(), np.cumsum(pc.list_value_length(offered).to_numpy())
        starts = np.concatenate([[0], ends[:-1]])
        if turns == "all":
            return np.repeat(np.arange(len(ends)), ends - starts), values
        if turns == "first":
            return np.arange(len(ends)), values[starts]
        drawn = np.array([_draw(f"{seed}/{self.name}-{position}") for position in self._positions.tolist()])
        return np.arange(len(ends)), values[starts + (drawn * (ends - starts)).astype(np.int64)]

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, place: int) -> str:
        return f"{self.name}/{self._id(place)}"

    def _id(self, place: int) -> str:
        return f"{self.name}-{self._positions[self._rows[place]]}-{self._turns[place]}"

    def make(self, place: int) -> Sample:
        turn = int(self._turns[place])
        row = self._table.slice(int(self._rows[place]), 1).to_pylist()[0]
        record = records.read(self._index.path, row["start"], row["length"])
        question, answer = (_said(one) for one in record["conversations"][2 * turn : 2 * turn + 2])
        return Sample(
            self._id(place), ImageFile(self.images, row["image"]), question, (answer,), self.name,
            row["source"], {"position": row["position"], "id": record.get("id"), "turn": turn},
        )  # fmt: skip

    def refuse_changed(self) -> None:
        """ValueError if pictures are missing or differ from the manifest in size; they are not opened."""
        column = pc.take(self._table, pa.array(np.unique(self._rows)))
        for name, size in zip(column["image"].to_pylist(), column["size"].to_pylist(), strict=True):
            picture = ImageFile(self.images, name)
            found = UNUSABLE if picture.size is None else picture.size
            if found == UNUSABLE or size not in (UNCHECKED, found):
                what = "is not there" if found == UNUSABLE else "has changed since it was checked"
                raise ValueError(
                    f"the picture {picture.path} {what}: make a new manifest with evocomp data check"
                )

    def of(self, keys: Iterable[str]) -> list[Sample]:
        """Return the samples named by the keys of a label store; ValueError for a key of other data."""
        places = {self.key(place): place for place in range(len(self))}
        found = []
        for key in keys:
            if key not in places:
                raise ValueError(f"label of '{key}': {self._index.path} has no such sample")
            found.append(self[places[key]])
        return found

    @property
    def about(self) -> dict[str, Any]:
        """The facts that labels of these samples depend on."""
        return {"data": self.name, "data_sha256": self._index.digest}


def digest(path: Path) -> str:
    with regular_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _usable(path: Path, rules: Sequence[Rule], left_out: dict[str, Defect]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the index; count left-out records in `left_out`."""
    for position, (start, length, record) in enumerate(records.scan(path)):
        where = f"record {position}"
        try:
            image, turns = _parts(record)
        except ValueError as problem:
            _count(left_out, str(problem), where)
            continue
        whole = [turn for turn in range(len(turns) // 2) if _answered(turns[2 * turn : 2 * turn + 2])]
        if len(whole) < max(1, (len(turns) + 1) // 2):
            _count(
                left_out,
                "some turns lack a question or an answer" if whole else "no question with an answer",
                where,
            )
        if not whole:
            continue
        first = _said(turns[2 * whole[0]])
        fitting = (rule.source for rule in rules if rule.fits(image, first))
        source = record.get("source") or next(
            fitting, image.rpartition("/")[0].partition("/")[0] or "unknown"
        )
        yield {
            "position": position, "start": start, "length": length, "turns": whole,
            "source": str(source), "image": image, "size": UNCHECKED,
        }  # fmt: skip


def _parts(record: Any) -> tuple[str, list[Any]]:
    """Return image and turns; ValueError with the reason if the record has none."""
    if not isinstance(record, dict):
        raise ValueError("no object")
    image, turns = record.get("image"), record.get("conversations")
    if not image:
        raise ValueError("text only")
    if not isinstance(image, str):
        raise ValueError("more than one image")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("no conversation")
    try:
        ImageFile(Path(), image)
    except ValueError:
        raise ValueError("the image's name leads out of the folder") from None
    if any(
        "\0" in text or _SURROGATE.search(text)
        for text in (image, str(record.get("source")), *map(_said, turns))
    ):
        raise ValueError("a character that no text may have")
    if sum(str(turn.get("value")).count("<image>") for turn in turns) > 1:
        raise ValueError("<image> more than once")
    return image, turns


def _answered(pair: Sequence[Any]) -> bool:
    return [turn.get("from") for turn in pair] == ["human", "gpt"] and all(map(_said, pair))


def _said(turn: Any) -> str:
    """The text of a turn; a number counts as its digits, and any other value as empty."""
    value = turn.get("value")
    readable = isinstance(value, str | int | float) and not isinstance(value, bool) and value == value
    return str(value).replace("<image>", "").strip() if readable else ""


def _count(left_out: dict[str, Defect], reason: str, where: str) -> None:
    before = left_out.get(reason, Defect(0, where))
    left_out[reason] = Defect(before.count + 1, before.first)


def _draw(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48


def _opened(images: Path, name: str) -> tuple[int, str]:
    """Return the bytes of a picture and "", or UNUSABLE and the reason if it cannot be opened."""
    picture = ImageFile(images, name)
    if picture.size is None:
        return UNUSABLE, "picture not there"
    try:
        picture()
    except ValueError:
        return UNUSABLE, "picture cannot be opened"
    return picture.size, ""
