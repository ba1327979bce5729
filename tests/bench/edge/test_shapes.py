"""The phone protocol: how prompts fall into chunks, and which contexts hold them."""

from __future__ import annotations

import pytest

from bench.edge.protocol import PAPER_TEXT, Chunk, Protocol, variant


def test_only_the_first_chunk_is_padded():
    assert list(Protocol(8, (32, 16)).layout(21)) == [Chunk(3, 0, 5), Chunk(0, 5, 13), Chunk(0, 13, 21)]


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 16, 17])
def test_chunks_hold_every_row_once(rows: int):
    protocol = Protocol(8, (32, 16))
    chunks = list(protocol.layout(rows))
    assert len(chunks) == protocol.chunks(rows)
    assert [row for one in chunks for row in range(one.start, one.stop)] == list(range(rows))
    assert all(one.pad + one.stop - one.start == 8 for one in chunks)


def test_the_paper_has_four_graphs():
    assert [variant(*one) for one in Protocol().variants] == ["128t1024c", "1t1024c", "128t256c", "1t256c"]


def test_equal_graphs_are_there_once():
    assert Protocol(1, (32, 16)).variants == [(1, 32), (1, 16)]


@pytest.mark.parametrize("text", [1, 40, PAPER_TEXT])
def test_up_to_64_words_make_the_chunks_of_the_paper(text: int):
    assert [Protocol().chunks(visual + text) for visual in (576, 192, 128, 64)] == [5, 2, 2, 1]


def test_more_words_do_not():
    assert Protocol().chunks(64 + PAPER_TEXT + 1) == 2


def test_shapes_scale_with_the_image():
    assert Protocol.scaled(576) == Protocol()
    assert Protocol.scaled(144) == Protocol(32, (256, 64))
    assert Protocol.scaled(2880) == Protocol(128, (5120, 1280))
    assert Protocol.scaled(144, 16, (200, 100)) == Protocol(16, (200, 100))


def test_the_last_word_needs_no_row_of_cache():
    assert Protocol(8, (32, 16)).context(15, 2, compressed=True) == 16
    with pytest.raises(ValueError, match="need 17 rows of cache; the context with compression has 16"):
        Protocol(8, (32, 16)).context(15, 3, compressed=True)
    with pytest.raises(ValueError, match="without compression has 32: raise --contexts"):
        Protocol(8, (32, 16)).context(32, 2, compressed=False)


@pytest.mark.parametrize(
    ("chunk", "contexts", "told"),
    [(0, (8, 8), "at least 1 row"), (8, (32, 4), "at least one chunk"), (8, (32,), "give two lengths")],
)
def test_impossible_shapes_are_refused(chunk: int, contexts: tuple[int, ...], told: str):
    with pytest.raises(ValueError, match=told):
        Protocol(chunk, contexts)
