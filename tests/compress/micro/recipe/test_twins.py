"""The twins stand on the micro model: growing changes nothing, and what is trained is what the classes do."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, Qwen3VLProcessor

from compress.micro.recipe import decoder, qwen3, twins
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

    model = qwen3.new_qwen3(model).eval()
    pupil = qwen3.qwen3(model)
    said = decoder.run(pupil, pupil.project(pixels), alone)[0]
    assert torch.allclose(said, logits(model, twins.qwen_processor(Qwen3VLProcessor), 96), atol=1e-4)
    bare = decoder.run(pupil, pupil.project(pixels)[..., : qwen3.WIDTH], alone)[0]
    assert (said - bare).abs().max() > 0.1  # without what DeepStack adds


@pytest.fixture(scope="module")
def elder(micro):
    """A Qwen2.5-VL whose every weight matters."""
    model = twins.new_qwen(micro, heads=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def test_wider_heads_attend_alike(elder, packed):
    """Apart from norms of queries and keys, and biases, which one decoder has and the other has not."""
    model = qwen3.new_qwen3(elder).eval()
    for part in (layer.self_attn for layer in model.model.language_model.layers):
        part.q_norm, part.k_norm = (torch.nn.Identity() for _ in range(2))
        part.scaling = 24**-0.5
    plain = twins.qwen(copy.deepcopy(elder))
    for part in (layer.self_attn for layer in plain.decoder.layers):
        for reads in (part.q_proj, part.k_proj, part.v_proj):
            reads.bias.zero_()
    visual = torch.randn(2, 144, 72)
    before = decoder.run(plain, visual, packed)
    after = decoder.run(qwen3.qwen3(model), twins.shares(visual, qwen3.WIDTH, 0), packed)
    assert torch.allclose(before, after, atol=1e-4)


@torch.no_grad()
def test_norms_begin_with_the_mean_lengths_of_queries_and_keys(elder):
    model, source = qwen3.new_qwen3(elder).eval(), twins.qwen(elder)
    visual = torch.randn(2, 144, 48)
    taught = decoder.lessons("train", range(2), 0, 4)
    qwen3.match_lengths(model, source, visual, taught)
    part, given = source.decoder.layers[1].self_attn, []
    hook = part.register_forward_pre_hook(lambda _, args, kwargs: given.append(kwargs), with_kwargs=True)
    decoder.run(source, twins.shares(visual, 72, 0), decoder.pack(taught))
    hook.remove()
    hidden = given[0]["hidden_states"]
    lengths = [
        reads(hidden).unflatten(-1, (3, 24)).norm(dim=-1).mean() for reads in (part.q_proj, part.k_proj)
    ]
    grown = model.model.language_model.layers[1].self_attn
    x = torch.randn(1, 5, 3, 32)
    made = grown.q_norm(x).norm(dim=-1).mean() * grown.k_norm(x).norm(dim=-1).mean() * grown.scaling
    assert made == pytest.approx(float(lengths[0] * lengths[1]) * part.scaling, rel=1e-3)


def test_each_dimension_comes_in_one_share():
    tokens = torch.randn(1, 3, 96)
    shares = twins.shares(tokens, 128, 2).unflatten(-1, (3, 128))
    assert torch.equal(shares.sum(2), torch.nn.functional.pad(tokens, (0, 32)))
    assert (shares != 0).sum(2).max() == 1
    assert (shares != 0).float().mean((0, 1, 3)).tolist() == pytest.approx([3 / 8, 3 / 16, 3 / 16])
    assert torch.equal(twins.shares(tokens, 96, 0), tokens)


def test_the_decoder_alone_learns_from_another_models_visual_tokens(micro, elder):
    pupil = qwen3.qwen3(qwen3.new_qwen3(elder))
    alone = qwen3.taught_by(decoder.llava(micro), pupil)
    assert set(alone.trained) == {"decoder", "head"}
    visual = alone.project(torch.randn(2, 144, 16))
    assert visual.shape == (2, 144, 3 * qwen3.WIDTH) and not visual.requires_grad


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
