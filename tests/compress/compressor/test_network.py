"""The compressor's shape, its attention and its files."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaModel, Qwen2_5_VLTextConfig

from compress.base import View
from compress.compressor.evocomp import EvoComp
from compress.compressor.network import (
    CONFIG,
    WEIGHTS,
    Compressor,
    Tokens,
    WordMatch,
    pack,
    read_description,
)

LLAMA = LlamaConfig(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=32,
)
QWEN = Qwen2_5_VLTextConfig(
    hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
    vocab_size=32,
    rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
)  # fmt: skip


def tokens(visual: int = 9, text: int = 4, before: int = 1, seed: int = 0, width: int = 16) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    make = lambda n: torch.randn(n, width, generator=generator)  # noqa: E731
    return Tokens(make(visual), make(text), before)


@pytest.fixture(params=[LLAMA, QWEN], ids=["llama", "qwen2.5-vl"])
def compressor(request) -> Compressor:
    torch.manual_seed(0)
    made = Compressor(request.param)
    for parameter in made.parameters():
        parameter.data.mul_(4)  # fresh weights barely react to context
    return made.eval()


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (
            LlamaConfig(hidden_size=4096, intermediate_size=11008, num_attention_heads=32, vocab_size=32064),
            202_383_360,
        ),
        (
            Qwen2_5_VLTextConfig(
                hidden_size=3584,
                intermediate_size=18944,
                num_attention_heads=28,
                num_key_value_heads=4,
                vocab_size=152064,
            ),
            233_057_792,
        ),
    ],
    ids=["llava-1.5-7b", "qwen2.5-vl-7b"],
)
def test_parameter_counts_are_the_papers(config, count):
    with torch.device("meta"):
        made = Compressor(config)
    head = config.hidden_size + 1
    assert sum(p.numel() for p in made.parameters()) == count + head


def test_hidden_is_the_input_plus_the_layer_with_full_attention(compressor):
    sample = tokens()
    batch = pack([sample])
    logits, hidden = compressor(batch)
    x = torch.cat([sample.text[:1], sample.visual, sample.text[1:]])[None]
    everything = torch.ones(1, 1, 13, 13, dtype=torch.bool)
    positions = (
        torch.arange(13).expand(3, 1, 13)
        if compressor.config is not None and "qwen" in compressor.config.model_type
        else torch.arange(13)[None]
    )
    out = compressor.layers[0](
        x, attention_mask=everything, position_embeddings=compressor.rotary(x, positions)
    )
    torch.testing.assert_close(hidden, (x + out)[:, 1:10])
    torch.testing.assert_close(logits, compressor.head((x + out)[:, 1:10]).squeeze(-1))


def test_first_visual_token_sees_the_text_after_the_image(compressor):
    sample = tokens()
    other = Tokens(sample.visual, torch.cat([sample.text[:3], -sample.text[3:]]), 1)
    assert (compressor.score(sample)[0] - compressor.score(other)[0]).abs() > 1e-4


def test_ragged_batch_equals_single_samples(compressor):
    samples = [tokens(9, 4, 1), tokens(5, 7, 3, seed=1), tokens(7, 2, 0, seed=2)]
    batch = pack(samples)
    logits, _ = compressor(batch)
    for row, valid, sample in zip(logits, batch.valid, samples, strict=True):
        assert valid.sum() == len(sample.visual)
        torch.testing.assert_close(row[valid], compressor.score(sample), rtol=1e-4, atol=1e-5)


def test_under_an_llm_in_half_precision_a_copy_runs_its_layers_so(compressor):
    sample = tokens()
    half = compressor.running(torch.bfloat16, torch.device("cpu"))
    assert {p.dtype for p in half.layers.parameters()} == {torch.bfloat16}
    assert half.head.weight.dtype == torch.float32
    assert {p.dtype for p in compressor.parameters()} == {torch.float32}
    given = Tokens(sample.visual.bfloat16(), sample.text.bfloat16(), sample.before)
    torch.testing.assert_close(half.score(given), compressor.score(sample), rtol=0.05, atol=0.05)
    assert compressor.running(torch.float32, torch.device("cpu")) is compressor


def test_a_method_follows_the_llm_from_device_to_device_and_back():
    class Mobile(Compressor):
        def running(self, dtype, device):
            self.at = device
            return self

        def score(self, tokens):
            assert tokens.visual.device == self.at
            return tokens.visual.sum(1)

    method = EvoComp(Mobile(LLAMA))
    for device in ("cpu", "meta", "cpu"):
        rows = torch.ones(3, 4, device=device)
        nothing = torch.empty(0, device=device)
        assert method.score(View(0, rows, rows, rows, nothing, (1, 3))).shape == (3,)


def test_without_text_never_looks_at_the_text():
    torch.manual_seed(0)
    blind = Compressor(LLAMA, text=False)
    sample = tokens()
    other = Tokens(sample.visual, -sample.text, 2)
    assert torch.equal(blind.score(sample), blind.score(other))


def test_starts_from_the_llms_first_layers_and_leaves_the_llm_alone():
    torch.manual_seed(0)
    decoder = LlamaModel(LLAMA)
    made = Compressor.from_decoder(decoder, layers=2)
    for mine, theirs in zip(made.layers, decoder.layers, strict=False):
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    made.layers[0].mlp.up_proj.weight.data.zero_()
    assert decoder.layers[0].mlp.up_proj.weight.abs().sum() > 0
    assert decoder.layers[0].self_attn.is_causal
    with pytest.raises(ValueError, match="the LLM has 3 layers"):
        Compressor.from_decoder(decoder, layers=4)


def test_other_widths_are_average_pooled(compressor):
    wide = tokens(width=32)
    narrow = Tokens(wide.visual.view(-1, 16, 2).mean(-1), wide.text.view(-1, 16, 2).mean(-1), 1)
    torch.testing.assert_close(compressor.score(wide), compressor.score(narrow))


@pytest.mark.parametrize(
    "options", [{}, {"text": False, "layers": 2, "norm": True}], ids=["default", "options"]
)
@pytest.mark.parametrize("config", [LLAMA, QWEN], ids=["llama", "qwen2.5-vl"])
def test_load_returns_what_was_saved(tmp_path, config, options):
    torch.manual_seed(0)
    made = Compressor(config, **options)
    (tmp_path / "curves.csv").write_text("stays")
    made.save(tmp_path, {"score": 0.5})
    assert torch.equal(Compressor.load(tmp_path).score(tokens()), made.score(tokens()))
    assert read_description(tmp_path)["info"] == {"score": 0.5}
    assert sorted(p.name for p in tmp_path.iterdir()) == [CONFIG, WEIGHTS, "curves.csv"]


def test_broken_folders_are_refused_in_the_users_words(tmp_path):
    with pytest.raises(ValueError, match="no compressor here"):
        Compressor.load(tmp_path / "nowhere")
    Compressor(LLAMA).save(tmp_path)
    described = json.loads((tmp_path / CONFIG).read_text())
    described["llm"]["hidden_size"] = 32
    (tmp_path / CONFIG).write_text(json.dumps(described))
    with pytest.raises(ValueError, match="another shape: .* is .16, 16., this compressor needs .16, 32."):
        Compressor.load(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"half a fi")
    with pytest.raises(ValueError, match=f"{WEIGHTS}: unreadable"):
        Compressor.load(tmp_path)
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(ValueError, match=f"{CONFIG}: not JSON"):
        Compressor.load(tmp_path)


def test_a_failed_save_leaves_the_old_files_whole(tmp_path, monkeypatch):
    torch.manual_seed(0)
    old = Compressor(LLAMA)
    old.save(tmp_path)

    def full(path, content):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("pathlib.Path.write_bytes", full)
        Compressor(LLAMA).save(tmp_path)
    assert torch.equal(Compressor.load(tmp_path).score(tokens()), old.score(tokens()))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_token_that_matches_two_words_comes_before_one_that_matches_one():
    red, sign, other = torch.eye(16)[:3]
    sample = Tokens(torch.stack([red, red + sign, -red, other]), torch.stack([other * 0, red, sign]), 1)
    match = WordMatch(16)(pack([sample]).embeds, pack([sample]))[0].detach()
    assert match.argsort(descending=True).tolist()[:2] == [1, 0]
    assert match[2] == match[3]  # an opposite is no match, and is no worse than none
    assert match.mean().abs() < 1e-5 and match.std(unbiased=False) == pytest.approx(1, abs=1e-4)


def test_visual_tokens_are_no_words_for_each_other():
    red, sign, other = torch.eye(16)[:3]
    batch = pack([Tokens(torch.stack([red, red, red, sign]), torch.stack([other, sign]), 1)])
    assert WordMatch(16)(batch.embeds, batch)[0].argmax() == 3


def test_the_match_with_words_is_added_to_the_logits():
    torch.manual_seed(0)
    made, batch = Compressor(LLAMA, norm=True, words=True).eval(), pack([tokens()])
    (with_words, _), match = made(batch), made.words(batch.embeds, batch)
    made.words = None
    assert torch.allclose(with_words - made(batch)[0], match, atol=1e-6) and match.abs().max() > 0.1


def test_the_match_with_words_is_the_same_alone_and_in_a_padded_batch():
    samples = [tokens(9, 4, 1), tokens(5, 7, 2, seed=1), tokens(6, 3, 0, seed=2)]
    torch.manual_seed(0)
    made = Compressor(LLAMA, norm=True, words=True).eval()
    together, _ = made(pack(samples))
    for row, sample in enumerate(samples):
        alone, _ = made(pack([sample]))
        assert torch.allclose(together[row, : len(sample.visual)], alone[0], atol=1e-5)


def test_a_compressor_with_words_is_saved_and_one_without_text_has_none(tmp_path):
    torch.manual_seed(0)
    made = Compressor(LLAMA, words=True).eval()
    made.words.scale.data.fill_(3)
    made.save(tmp_path)
    read = Compressor.load(tmp_path)
    assert read.words.scale == 3 and torch.equal(read.score(tokens()), made.score(tokens()))
    with pytest.raises(ValueError, match="needs text=True"):
        Compressor(LLAMA, words=True, text=False)
