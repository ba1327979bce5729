"""Video-MME (Fu et al. 2024, arXiv:2405.21075): videos of eleven seconds to an hour, by letters.

    Select the best answer to the following multiple-choice question based on the video. Respond with only the
    letter (A, B, C, or D) of the correct option.
    What is Moina Michael wearing in the video?
    A. Black shirts.
    B. Blue shirts.
    The best answer is:   -> B

There are three published questions about each of 900 videos: 300 short, 300 medium and 300 long ones.
Subtitles are not used. The authors' mean leaves out answers without a letter; that of lmms-eval counts them
as wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import parse_qs, urlsplit

from bench.tasks.base import means
from bench.tasks.folder import Folder, RawRecord, identifier, read_json, text, texts
from bench.tasks.mmstar import lmms_eval
from bench.tasks.multiple import UNREADABLE, lettered
from bench.tasks.videos import VideoChoice, VideoFile, local, present
from compress.samples import Sample
from compress.video import Sampling

FILE = "output_test_template.json"
LENGTHS = ("short", "medium", "long")
SELECT = (
    "Select the best answer to the following multiple-choice question based on the video{}. Respond with "
    "only the letter (A, B, C, or D) of the correct option."
)
SUBTITLES = " and the subtitles"  # lmms-eval uses this for videos without subtitles, too
PREFIXES = ("The best answer is", "The correct answer is", "The answer is", "The answer")
LETTER = "Answer with the option's letter from the given choices directly."


def authors(said: str, options: Mapping[str, str]) -> str | None:
    """The first capital from A to D after the usual beginnings, also inside a word."""
    for prefix in PREFIXES:
        said = said.replace(prefix, "")
    found = re.search("[ABCD]", said)
    return found[0] if found else None


class VideoMME(VideoChoice):
    """Short, medium and long videos of all kinds, options by letter (Video-MME)."""

    name = "video-mme"
    repository = "Video-MME"
    splits = {"test": (2700,)}
    headline = (UNREADABLE, *LENGTHS)
    rules = {"llava": authors, "lmms-eval": lmms_eval}

    @property
    def max_new_tokens(self) -> int:
        return {"micro": 6, "llava": 128, "lmms-eval": 16}[self.protocol]

    def official_files(self) -> tuple[str, ...]:
        return (FILE,)

    def lab_files(self) -> tuple[str, ...]:
        return ("videomme/test-*.parquet",)

    def official(self, folder: Folder) -> Iterator[Sample]:
        """A record per video with its questions, and data/."""
        for video in read_json(folder.find(FILE)):
            of_youtube = parse_qs(urlsplit(str(video.get("url") or "")).query).get("v", [""])[0]
            about = {
                "videoID": of_youtube or identifier(video, "video_id"),
                "duration": video["duration_category"],
                "domain": video["video_category"], "sub_category": video["video_subcategory"],
            }  # fmt: skip
            for row in video["questions"]:
                yield self.asked(folder, about | row | {"options": row["choices"]})

    def lmms_lab(self, folder: Folder) -> Iterator[Sample]:
        """videomme/test-*.parquet and data/."""
        local(folder)
        for row, _ in folder.rows("videomme", "test"):
            yield self.asked(folder, row)

    def asked(self, folder: Folder, row: RawRecord) -> Sample:
        name, duration = text(row, "videoID"), text(row, "duration")
        if duration not in LENGTHS:
            raise ValueError(f"question {row['question_id']}: its video is '{duration}', not {LENGTHS}")
        root = local(folder) / "data"
        file = present(root, *(f"{name}.{suffix}" for suffix in ("mp4", "MP4", "mkv")))
        return self.choice(
            identifier(row, "question_id"), VideoFile(root, file, Sampling(self.frames)),
            text(row, "question"), [re.sub(r"^[A-D]\.\s*", "", one) for one in texts(row, "options")],
            text(row, "answer").strip(), family=text(row, "task_type"), duration=duration,
            domain=text(row, "domain"), subdomain=text(row, "sub_category"), image=f"video-mme/{name}",
        )  # fmt: skip

    def prompt(self, stem: str, options: Sequence[str]) -> str:
        ours = self.protocol == "llava"
        end = "The best answer is:" if ours else f"\n{LETTER}"
        return "\n".join([SELECT.format("" if ours else SUBTITLES), stem, *lettered(options), end])

    def stratum(self, sample: Sample) -> str:
        return str(sample.info.get("duration", ""))

    def counts(self, sample: Sample, prediction: str) -> bool:
        return self.protocol != "llava" or self.letter(sample, prediction) is not None

    def subscores(self, samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
        """Scores by the video's length, domain and sub-domain and by kind of question, of counted answers."""
        pairs = list(zip(samples, predictions, strict=True))
        counted = [(one, self.correct(one, said)) for one, said in pairs if self.counts(one, said)]
        found = {UNREADABLE: self.unreadable(samples, predictions)}
        for part in ("duration", "domain", "subdomain"):
            found |= means((str(one.info.get(part, "")), credit) for one, credit in counted)
        return found | means((one.family, credit) for one, credit in counted)
