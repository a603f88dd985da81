"""The fused table against ``nn.Embedding(sparse=True)`` with torch's Adagrad.

`python -m benchmarks.embedding` takes steps of 4,096 examples: 12 fields and a history of 20, of
200,000 rows × 16 a field, ids by Zipf. A step is forward, backward and update, without any model.
``ratio`` compares with the faster of two usual arrangements: a table a field, and one for all;
their Adagrad has an accumulator a weight, ours one a row. Processor time, medians of rounds in
turns.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from timeit import timeit

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.machine import report, rounded, seconds
from trainer.embeddings import TableConfig, make_table

FIELDS, HISTORY, WIDTH, ROWS = 12, 20, 16, 200_000

Step = Callable[[Tensor], object]


def batches(examples: int, count: int = 8) -> list[Tensor]:
    """Return rows (B, fields + history) of one table of all fields; the history is of field 0."""
    rng = np.random.default_rng(0)
    first = np.concatenate([np.arange(FIELDS), np.zeros(HISTORY, np.int64)]) * ROWS + 1
    shape = (examples, FIELDS + HISTORY)
    return [torch.from_numpy(rng.zipf(1.2, shape) % ROWS + first) for _ in range(count)]


def fused(backend: str, gradient_NE: Tensor) -> Step:
    """Return a step of our table."""
    config = TableConfig(width=WIDTH, backend=backend)
    table = make_table(config, max_rows=FIELDS * ROWS, seed=0)
    rows = np.arange(1, FIELDS * ROWS + 1)
    table.reset(rows, rows.astype(np.uint64))

    def step(rows_BF: Tensor) -> None:
        table.lookup(rows_BF.view(-1)).backward(gradient_NE)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    return step


def sparse_one(gradient_NE: Tensor) -> Step:
    """Return a step of one sparse ``nn.Embedding`` of all fields."""
    table = nn.Embedding(FIELDS * ROWS + 1, WIDTH, sparse=True)
    optimiser = torch.optim.Adagrad(table.parameters(), lr=0.02)

    def step(rows_BF: Tensor) -> None:
        optimiser.zero_grad()
        table(rows_BF.view(-1)).backward(gradient_NE)
        optimiser.step()

    return step


def sparse_each(gradient_NE: Tensor) -> Step:
    """Return a step of a sparse ``nn.Embedding`` a field."""
    tables = nn.ModuleList(nn.Embedding(ROWS + 1, WIDTH, sparse=True) for _ in range(FIELDS))
    optimiser = torch.optim.Adagrad(tables.parameters(), lr=0.02)

    def step(rows_BF: Tensor) -> None:
        optimiser.zero_grad()
        local_BF = rows_BF % ROWS
        columns = list(range(FIELDS)) + [0] * HISTORY
        parts = [tables[f](local_BF[:, f]) for f in range(1, FIELDS)]
        shared = [i for i, f in enumerate(columns) if f == 0]  # field 0 and its history, at once
        vectors = torch.cat([tables[0](local_BF[:, shared]), torch.stack(parts, 1)], dim=1)
        vectors.view(-1, WIDTH).backward(gradient_NE)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()

    return step


def _run(step: Step, batches: list[Tensor]) -> None:
    for rows_BF in batches:
        step(rows_BF)


def main() -> None:
    """Measure, and print one line of JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=16, help="a round")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]  # as by default, without its warning
    clock = (
        seconds if options.threads == 1 else partial(timeit, number=1)
    )  # threads spin: wall time
    data = batches(options.batch_size)
    gradient_NE = torch.randn(data[0].numel(), WIDTH) / options.batch_size
    steps = {
        "fbgemm": fused("fbgemm", gradient_NE),
        "torch": fused("torch", gradient_NE),
        "sparse_one": sparse_one(gradient_NE),
        "sparse_each": sparse_each(gradient_NE),
    }
    endless: Iterator[Tensor] = cycle(data)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds + 1):  # the first warms up
        for name, step in steps.items():
            rows = [next(endless) for _ in range(options.steps)]
            taken[name].append(clock(partial(_run, step, rows)) / options.steps)
    ms = {name: 1e3 * statistics.median(times[1:]) for name, times in taken.items()}
    for name, each in ms.items():
        print(f"{name:12s} {each:7.2f} ms a step")
    report(
        "embedding",
        ratio=rounded(min(ms["sparse_one"], ms["sparse_each"]) / ms["fbgemm"]),
        ms={name: rounded(each) for name, each in ms.items()},
        batch_size=options.batch_size,
        threads=options.threads,
        rounds=options.rounds,
    )


if __name__ == "__main__":
    main()
