"""Batches of like length: every row once, little padding, an order that changes."""

from itertools import chain

import numpy as np

from utils import models
from utils.data import load_data
from utils.tasks import make_task
from utils.training import epoch_batches


def natural_lengths() -> list[int]:
    data = load_data("embedded", embedded="sentiment")
    tokenizer = models.load_tokenizer(models.resolve("embedded").path)
    rows = make_task("sequence", data.labels).encode(tokenizer, data.train, 128)
    return [len(row["input_ids"]) for row in rows]


def padded_share(batches: list[list[int]], lengths: list[int]) -> float:
    cells = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    return 1 - sum(lengths) / cells


def test_every_row_comes_once():
    lengths = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
    batches = epoch_batches(lengths, 4, seed=0, epoch=1, pool=2)
    assert sorted(chain.from_iterable(batches)) == list(range(len(lengths)))
    assert sorted(len(batch) for batch in batches) == [3, 4, 4]


def test_padding_of_natural_texts_is_under_five_percent_where_random_batches_waste_a_quarter():
    lengths = natural_lengths()
    order = np.random.default_rng(0).permutation(len(lengths)).tolist()
    random = [order[start : start + 16] for start in range(0, len(order), 16)]
    assert padded_share(epoch_batches(lengths, 16, seed=0, epoch=1), lengths) < 0.05
    assert padded_share(random, lengths) > 0.25


def test_order_depends_on_seed_and_epoch_alone():
    lengths = natural_lengths()
    first = epoch_batches(lengths, 16, seed=0, epoch=1)
    assert first == epoch_batches(lengths, 16, seed=0, epoch=1)
    assert first != epoch_batches(lengths, 16, seed=0, epoch=2)
    assert first != epoch_batches(lengths, 16, seed=1, epoch=1)


def test_batches_come_neither_short_first_nor_with_the_same_company():
    lengths = natural_lengths()
    means = [
        np.mean([lengths[row] for row in batch])
        for batch in epoch_batches(lengths, 16, seed=0, epoch=1)
    ]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.4

    def pairs(epoch):
        batches = epoch_batches(lengths, 16, seed=0, epoch=epoch)
        return {(a, b) for batch in batches for a in batch for b in batch if a < b}

    shared = len(pairs(1) & pairs(2)) / len(pairs(1))
    assert shared < 0.5
