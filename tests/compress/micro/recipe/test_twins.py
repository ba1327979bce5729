"""The twins stand on the micro model: growing changes nothing, and what is trained is what the classes do."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig

from compress.micro.recipe import decoder, twins
from compress.micro.recipe.tower import IGNORE, MEAN, STD, SceneBatch, cut, label_scene
from compress.micro.world import Photograph, render, scene


@pytest.fixture(scope="module")
def micro():
    """A small LLaVA whose every weight matters."""
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=96, patch_size=8, projection_dim=16,
    )  # fmt: skip
    model = decoder.new_model(vision, width=48, inner=96, layers=3, heads=2, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def packed():
    return decoder.pack(decoder.lessons("train", range(2), 0, 4))


@torch.no_grad()
def test_a_wider_decoder_answers_alike(micro, packed):
    wide = twins.new_wide(micro, heads=3)
    assert wide.config.text_config.hidden_size == 72
    features = torch.randn(2, 144, 16)
    before, after = (
        decoder.run(pupil, pupil.project(features), packed)
        for pupil in (decoder.llava(micro), decoder.llava(wide))
    )
    assert torch.allclose(before, after, atol=1e-4)
    image = torch.randn(1, 3, 96, 96)
    assert torch.equal(
        micro.model.vision_tower(image).last_hidden_state, wide.model.vision_tower(image).last_hidden_state
    )


def test_what_has_grown_can_learn(micro, packed):
    """Every new row and column gets a gradient within two steps; none stays dead."""
    pupil = decoder.llava(twins.new_wide(micro, heads=3).train())
    optimiser = torch.optim.SGD(pupil.trained.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        logits = decoder.run(pupil, pupil.project(torch.randn(2, 144, 16)), packed)
        torch.nn.functional.cross_entropy(logits, packed.answers()).backward()
        optimiser.step()
    layer = pupil.decoder.layers[1]
    for part in (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp.down_proj):
        assert part.weight.grad[:, -1].abs().max() > 0 and part.weight.grad[-1].abs().max() > 0


@torch.no_grad()
def test_lessons_run_as_the_model_itself_would(micro, packed):
    """Packed questions with cached features give the logits of the class's own forward on pixels and ids."""
    picture = Photograph(scene("train", 0))
    lesson = decoder.lessons("train", range(1), 0, 3)[0]
    alone = decoder.pack(
        [dataclasses.replace(lesson, prompts=lesson.prompts[:1], answers=lesson.answers[:1])]
    )

    def logits(model, processor, side):
        words = processor.tokenizer.convert_ids_to_tokens(lesson.prompts[0])
        turns = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " ".join(words[:-1])}]}
        ]
        prompt = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        inputs = processor(images=[picture.at(side)], text=[prompt], return_tensors="pt")
        return model(**inputs).logits[0, -1]

    following = twins.new_next(micro).eval()
    rows = label_scene(scene("train", 0), tiled=True)
    scenes = SceneBatch(*(np.stack([column]) for column in rows))
    pupil = twins.llava_next(following)
    features = decoder.tower_features(following.model.vision_tower, scenes).float()
    said = decoder.run(pupil, pupil.project(features), alone)[0]
    wanted = logits(following, twins.next_processor(following), 192)
    assert torch.allclose(
        said, wanted, atol=0.02 * float(wanted.std())
    )  # features are kept in half precision

    model = twins.new_qwen(micro, heads=3).eval()
    pupil = twins.qwen(model)
    pixels = torch.from_numpy(np.array(picture.at(96)))[None]
    said = decoder.run(pupil, pupil.project(twins.windowed(model, pixels)), alone)[0]
    assert torch.allclose(said, logits(model, twins.qwen_processor(), 96), atol=1e-4)


def test_newlines_have_no_content_to_learn(micro):
    pupil = twins.llava_next(twins.new_next(micro))
    rows = label_scene(scene("train", 3), tiled=True)
    scenes = SceneBatch(*(np.stack([column]) for column in rows))
    alignment = decoder.Alignment(scenes, pupil.shows)
    newline = pupil.shows == 720
    assert len(newline) == 744 and newline.sum() == 24
    assert (alignment.kind[0, newline] == IGNORE).all() and (alignment.owner[0, newline] == -1).all()
    assert torch.equal(alignment.owner[0, :144], torch.from_numpy(rows[3][:144]))


def test_quarters_lie_where_the_crops_of_the_processor_do(micro):
    made = scene("train", 6)
    pixels, *_ = label_scene(scene("train", 6), tiled=True)
    processor = twins.next_processor(twins.new_next(micro)).image_processor
    theirs = processor(images=[render(made, 2)], return_tensors="pt")["pixel_values"][0]
    ours = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - MEAN[0]) / STD[0]
    assert torch.allclose(ours, theirs, atol=0.01)
    assert np.array_equal(cut(np.arange(16).reshape(4, 4), 2)[1], [[2, 3], [6, 7]])


def test_tiles_know_which_phrases_they_show():
    rows = label_scene(scene("train", 0), tiled=True)
    scenes = SceneBatch(*(np.stack([column]) for column in rows))
    tiles = scenes.tiles
    assert tiles.pixels.shape == (5, 96, 96, 3) and tiles.kind.shape == (5, 144)
    assert np.array_equal(tiles.phrases[0], scenes.phrases[0])
    assert (tiles.phrases[1:].any(0) <= tiles.phrases[0]).all() and tiles.phrases[
        1:
    ].sum() >= scenes.phrases.sum()
