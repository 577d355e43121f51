"""Rows that share a sequence never see each other, and no token is lost or doubled."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import parse_config
from trainer.data.batches import Row, collate
from trainer.data.packing import collate_packed, pack, room, split_packed
from trainer.model.loss import cross_entropy_sum
from trainer.model.minimind import MiniMind, initialise
from trainer.steps.step import MicroBatch

MAX_SEQ_LEN = 40
MODEL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}
EXPERTS = MODEL | {"use_moe": True, "router_aux_loss_coef": 0.1}
lengths = st.lists(st.integers(2, MAX_SEQ_LEN), min_size=1, max_size=30)


def row(length: int, seed: int) -> Row:
    draw = np.random.default_rng(seed)
    is_target = draw.random(length) < 0.7
    is_target[0], is_target[-1] = False, True
    return Row(tokens=draw.integers(1, 300, length).astype(np.uint16), is_target=is_target)


def built(model: dict[str, object], dtype: str = "float32", checkpointing: str = "off") -> MiniMind:
    config = {
        "kind": "pretrain",
        "data": {"path": "unread", "max_seq_len": MAX_SEQ_LEN},
        "model": model,
        "train": {"dtype": dtype, "batch_size": 4, "accumulation_steps": 1},
        "plan": {"activation_checkpointing": checkpointing},
    }
    made = MiniMind(parse_config(config), torch.device("cpu"))
    initialise(made, seed=1)
    return made


def loss_and_gradients(model: MiniMind, *batches: MicroBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    total = torch.zeros(())
    for batch in batches:
        hidden = model(batch.ids, batch.starts)
        loss = cross_entropy_sum(hidden, model.head_weight, batch.positions, batch.labels, chunked=True)
        loss.backward()
        total += loss.detach()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@given(lengths=lengths)
def test_every_row_is_in_one_sequence_and_none_is_overfull(lengths: list[int]) -> None:
    rows = [row(length, seed) for seed, length in enumerate(lengths)]
    sequences = pack(rows, MAX_SEQ_LEN)
    assert sorted(id(r) for sequence in sequences for r in sequence) == sorted(map(id, rows))
    filled = [sum(len(r.tokens) - 1 for r in sequence) for sequence in sequences]
    assert max(filled) <= room(MAX_SEQ_LEN)
    assert filled == sorted(filled, reverse=True)
    assert sum(map(len, split_packed(rows, 3, MAX_SEQ_LEN))) == len(sequences)


@given(lengths=lengths)
def test_each_token_knows_where_its_row_begins_and_each_target_what_follows(lengths: list[int]) -> None:
    rows = [row(length, seed) for seed, length in enumerate(lengths)]
    sequences = pack(rows, MAX_SEQ_LEN)
    batch = collate_packed(sequences, MAX_SEQ_LEN)
    assert batch.starts is not None
    found = []
    for ids, starts in zip(batch.ids, batch.starts, strict=True):
        for start in starts[ids != 0].unique():
            assert ((starts == start).nonzero()[0] == start).all()
            found.append(ids[starts == start].tolist())
    assert sorted(found) == sorted(r.tokens[:-1].tolist() for r in rows)
    assert sorted(batch.labels.tolist()) == sorted(int(t) for r in rows for t in r.tokens[r.is_target])
    assert len(batch.positions.unique()) == len(batch.positions) == sum(r.targets for r in rows)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_does_not_depend_on_its_neighbours(dtype: str) -> None:
    """To the bit: other words beside it, and a gradient that comes from it alone, change nothing."""
    model = built(MODEL, dtype)
    first, others = row(9, 1), [(row(13, 2), row(7, 3)), (row(13, 4), row(7, 5))]
    hidden, gradients = [], []
    for before, after in others:
        batch = collate_packed([[before, first, after]], MAX_SEQ_LEN)
        out = model(batch.ids, batch.starts)[0, 12:20]
        model.zero_grad()
        out.float().square().sum().backward()
        hidden.append(out)
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert torch.equal(*hidden)
    for name in gradients[0]:
        assert torch.equal(gradients[0][name], gradients[1][name]), name


@pytest.mark.parametrize("place", [0, 12, 19])
def test_positions_begin_anew_with_each_row(place: int) -> None:
    """Wherever a row lies, it is what it would be alone."""
    model = built(MODEL)
    ours = row(9, 1)
    alone = collate([ours], MAX_SEQ_LEN)
    before = [row(length + 1, length) for length in (place - place // 2, place // 2) if length]
    packed = collate_packed([[*before, ours]], MAX_SEQ_LEN)
    hidden = model(packed.ids, packed.starts)[0, place : place + 8]
    torch.testing.assert_close(hidden, model(alone.ids)[0, :8], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("checkpointing", ["off", "selective", "full"])
@pytest.mark.parametrize("model", [MODEL, EXPERTS], ids=["dense", "experts"])
def test_loss_and_gradients_are_those_of_the_rows_apart(model: dict[str, object], checkpointing: str) -> None:
    rows = [row(length, length) for length in (31, 5, 12, 9, 20, 3)]
    made = built(model, checkpointing=checkpointing)
    loss, gradients = loss_and_gradients(made, collate_packed(pack(rows, MAX_SEQ_LEN), MAX_SEQ_LEN))
    expected, apart = loss_and_gradients(made, *(collate([one], MAX_SEQ_LEN) for one in rows))
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for name, gradient in apart.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=2e-5 * float(gradient.abs().max()) + 1e-7)
