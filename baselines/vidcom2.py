from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.crops import best_of_each, share_out
from baselines.videos import frames_of, newlines_of
from compress.base import Selection, Selector, View

WIDTHS = tuple(2.0**power for power in range(-3, 2))  # of the Gaussians, whose sum is the similarity


@dataclass
class VidCom2(Selector):
    """Give unusual frames of a video more tokens, and keep those least similar to their frame and the video.

    "Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language Models" (Liu
    et al., EMNLP 2025, arXiv 2505.14454), the version for LLaVA-OneVision; its rule is also in vLLM. Acts at
    the decoder's input; positions are contiguous. Reads the share `channels` of the embeddings' channels that
    vary least over the video, scaled to unit length. The similarity to a mean is a sum of Gaussians of five
    widths. A frame's budget grows with the softmax, at `temperature`, of its negative mean similarity to the
    mean of the video. Within a frame, the tokens with the lowest sum of similarities to the means of video
    and frame are kept.

    Departures: the code rounds the budget of every frame to the nearest integer, at least one, so that the
    total only approximates the budget; here the frames share it exactly. The code computes in the model's
    precision, here in float32; for Qwen its positions stay original. Newlines, which the code adds to its
    budget, all stay, up to half of the budget.
    """

    channels: float = 0.5
    temperature: float = 0.01
    positions = "compact"
    video = True

    def __post_init__(self) -> None:
        if not 0 < self.channels <= 1 or self.temperature <= 0:
            raise ValueError(
                f"channels={self.channels}, temperature={self.temperature}: choose a share of the channels "
                "above 0, up to 1, and a temperature above 0"
            )

    def select(self, view: View, keep: int) -> Selection:
        rows, newlines = frames_of(view, "vidcom2"), newlines_of(view, keep)
        frames, places = rows.shape
        to_video, to_frame = self.likeness(view.hidden[rows])
        room = torch.full_like(rows[:, 0], places)
        counts = share_out(self.scales(to_video), room, keep - len(newlines))
        frame = torch.arange(frames, device=rows.device).repeat_interleave(places)
        kept = rows.flatten()[best_of_each(-(to_video + to_frame).flatten(), frame, counts)]
        return Selection(torch.cat([kept, newlines]).sort().values)

    def likeness(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return similarities [F, n] of tokens [F, n, C] to the mean of the video, and of their frame."""
        features = frames.float()
        spread = features.flatten(0, 1).var(0, unbiased=False)
        steady = spread.sort(stable=True).indices[: max(1, int(len(spread) * self.channels))]
        unit = F.normalize(features[..., steady], dim=-1)

        def near(mean: Tensor) -> Tensor:
            apart = (unit - mean).square().sum(-1)
            return torch.stack([(-apart / (2 * width)).exp() for width in WIDTHS]).sum(0)

        return near(unit.mean((0, 1))), near(unit.mean(1, keepdim=True))

    def scales(self, likeness: Tensor) -> Tensor:
        """Return the relative budgets [F] of frames, from the similarities [F, n] to the video."""
        unusual = (-likeness.mean(1) / self.temperature).softmax(0)
        return 1 + unusual - unusual.mean()
