from __future__ import annotations

from torch import Tensor

from compress.models.llava_next import LlavaNext
from compress.models.mllm import Picture, squares
from compress.models.stacked import StackedVideos


class LlavaNextVideo(StackedVideos, LlavaNext):
    """LLaVA-NeXT-Video: LLaVA-NeXT, plus videos with 2 x 2 patches of a frame pooled to a token.

    Patches are pooled before the projector, so methods that select in the tower do not apply: methods act at
    the decoder's input and inside the decoder. In the tower they can read the attention that tokens receive.
    """

    processor_parts = ("LlavaNextVideoProcessor", "LlavaNextImageProcessorPil")
    clip_tower = False
    receives = True
    free_size = True

    def tower_groups(self, picture: Picture) -> Tensor:
        if picture.video:
            return 1 + squares(picture.grid, self._stride, self.index_device)  # CLS is the first row
        return 1 + super().tower_groups(picture)

    @property
    def _stride(self) -> int:
        return int(self.model.config.spatial_pool_stride)

    @property
    def frame_grid(self) -> tuple[int, int]:
        rows, columns = (side // self._stride for side in self.grid)
        return rows, columns
