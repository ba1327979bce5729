"""MVBench (Li et al. 2024, arXiv:2311.17005): 20 kinds of questions that a single frame cannot answer.

    Question:What direction is the cyan sphere moving in within the video?
    Option:
    (A) Down and to the left.
    (B) The object is stationary.
    Only give the best option.   -> B

There are 200 published questions of each kind. Videos are whole files, for some kinds with a start and an end
(the authors' files), or cut to these (lmms-eval's files). The authors let the model continue `Best option:(`;
this module lets it start the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import NamedTuple

from bench.tasks.folder import Folder, RawRecord, read_json, text, texts
from bench.tasks.videos import VideoChoice, VideoFile, local, present
from bench.tasks.vqa import without_marks
from compress.samples import Sample
from compress.video import Sampling

SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and "
    "movement of objects, and the action and pose of persons. Based on your observations, select the best "
    "option that accurately addresses the question.\n"
)
BEST = "Only give the best option."
FPS = 3.0  # frames per second of the kinds with folders of frames


class _Kind(NamedTuple):
    """Folders of a kind's videos below video/: the authors' folder, and lmms-eval's."""

    whole: str
    cut: str
    bound: bool = False  # whether records have the start and the end in the whole videos
    frames: bool = False  # whether the whole videos are folders of frames


CHARADES = _Kind("star/Charades_v1_480", "star/Charades_segment", bound=True)
CLEVRER = _Kind("clevrer/video_validation", "clevrer/video_validation")
PERCEPTION = _Kind("perception/videos", "perception/videos")
KINDS = {
    "action_sequence": CHARADES,
    "action_prediction": CHARADES,
    "action_antonym": _Kind("ssv2_video", "ssv2_video_mp4"),
    "fine_grained_action": _Kind("Moments_in_Time_Raw/videos", "Moments_in_Time_Raw/videos"),
    "unexpected_action": _Kind("FunQA_test/test", "FunQA_test/test"),
    "object_existence": CLEVRER,
    "object_interaction": CHARADES,
    "object_shuffle": PERCEPTION,
    "moving_direction": CLEVRER,
    "action_localization": _Kind("sta/sta_video", "sta/sta_video_segment", bound=True),
    "scene_transition": _Kind("scene_qa/video", "scene_qa/video"),
    "action_count": PERCEPTION,
    "moving_count": CLEVRER,
    "moving_attribute": CLEVRER,
    "state_change": PERCEPTION,
    "fine_grained_pose": _Kind("nturgbd", "nturgbd_convert"),
    "character_order": PERCEPTION,
    "egocentric_navigation": _Kind("vlnqa", "vlnqa"),
    "episodic_reasoning": _Kind("tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment", bound=True, frames=True),
    "counterfactual_inference": CLEVRER,
}


def authors(said: str, options: Mapping[str, str]) -> str | None:
    """The letter that the first word is, or contains as `(A)`; None if the word matches several."""
    word = said.lower().split(" ")[0].replace(".", "")
    fit = [letter for letter in options if word in (mark := f"({letter.lower()})") or mark in word]
    return fit[0] if len(fit) == 1 else None


def lmms_eval(said: str, options: Mapping[str, str]) -> str | None:
    """`A. ...`, else the first single letter from A to E, including the article; ignores case and marks."""
    if start := re.match(r"([A-E])\.\s*(.+)$", said.strip(), re.IGNORECASE):
        return start[1].upper()
    plain = without_marks(said.replace("\n", " ").replace("\t", " ").strip())
    single = re.search(r"\b[A-E]\b", plain, re.IGNORECASE)
    return single[0].upper() if single else None


class MVBench(VideoChoice):
    """Twenty kinds of questions about short videos, options by letter (MVBench)."""

    name = "mvbench"
    repository = "MVBench"
    splits = {"train": (4000,)}  # the name in its files
    rules = {"llava": authors, "lmms-eval": lmms_eval}

    @property
    def max_new_tokens(self) -> int:
        return {"micro": 6, "llava": 100, "lmms-eval": 16}[self.protocol]

    def official_files(self) -> tuple[str, ...]:
        return ("json/*.json",)

    def lab_files(self) -> tuple[str, ...]:
        return ("*/train-*.parquet",)

    def official(self, folder: Folder) -> Iterator[Sample]:
        """json/KIND.json and video/."""
        for kind in KINDS:
            if (path := folder.path / "json" / f"{kind}.json").exists():
                for place, row in enumerate(read_json(path)):
                    yield self.asked(folder, kind, place, row)

    def lmms_lab(self, folder: Folder) -> Iterator[Sample]:
        """KIND/train-*.parquet and video/."""
        local(folder)
        for kind in KINDS:
            if any(folder.path.glob(f"{kind}/train-*.parquet")):
                for place, (row, _) in enumerate(folder.rows(kind, "train")):
                    yield self.asked(folder, kind, place, row)

    def asked(self, folder: Folder, kind: str, place: int, row: RawRecord) -> Sample:
        options, answer = texts(row, "candidates"), text(row, "answer")
        if answer not in options:
            raise ValueError(f"question {kind}-{place}: the answer '{answer}' is none of its candidates")
        return self.choice(
            f"{kind}-{place}", self.video(folder, KINDS[kind], row), text(row, "question"), options,
            ascii_uppercase[options.index(answer)], family=kind, image=f"mvbench/{kind}/{text(row, 'video')}",
        )  # fmt: skip

    def video(self, folder: Folder, kind: _Kind, row: RawRecord) -> VideoFile:
        """The whole video with its bounds, or the cut one; if both exist, the protocol's choice."""
        root, name = local(folder) / "video", text(row, "video")
        order = (kind.cut, kind.whole) if self.protocol == "lmms-eval" else (kind.whole, kind.cut)
        place = present(root, *order)
        whole = place == kind.whole
        between = (float(row["start"]), float(row["end"])) if whole and kind.bound else None
        found = present(root / place, name, f"{name.rpartition('.')[0]}.mp4")
        sampling = Sampling(self.frames, between=between)
        return VideoFile(root / place, found, sampling, FPS if whole and kind.frames else 1.0)

    def prompt(self, stem: str, options: Sequence[str]) -> str:
        listed = [f"({letter}) {one}" for letter, one in zip(ascii_uppercase, options, strict=False)]
        if self.protocol == "lmms-eval":
            return "\n".join([f"Question:{stem}", "Option:", *listed, BEST, ""])
        return SYSTEM + "\n".join([f"Question: {stem}", "Options:", *listed, BEST])

    def stratum(self, sample: Sample) -> str:
        return sample.family

    def counts(self, sample: Sample, prediction: str) -> bool:
        """lmms-eval leaves out empty answers."""
        return self.protocol != "lmms-eval" or prediction != ""
