"""What checkpoints cost the training: a table of 10 M rows, one checkpoint every 10 s.

`python -m benchmarks.checkpoint` learns the same batches over and over, with and without
checkpoints, and prints ``stall_share``: the share of the wall time in which the learner stood
still for them, and ``slowdown``: what examples/s lose in all (the writer shares the cores). The
state of the ingest is copied by its own thread, ahead of the learner, and is not part of this.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import report
from networks.shape import ModelShape
from stream.position import Position
from trainer.batch import Batch
from trainer.checkpoint import Checkpoint, Checkpoints
from trainer.items import Barrier
from trainer.learner import Learner
from trainer.learner_config import LearnerConfig
from trainer.saver import Saver

FIELDS, NUMBERS, HISTORY = 12, 60, 20


def learner(rows: int) -> Learner:
    """Return a DIN whose table has all its rows."""
    shape = ModelShape(
        id_fields=tuple(f"f{i}" for i in range(FIELDS)),
        sequences=(("history", HISTORY),),
        sequence_targets=(0,),
        numbers=tuple(f"n{i}" for i in range(NUMBERS)),
        embedding_width=16,
    )
    made = Learner(LearnerConfig(), shape, max_rows=rows, seed=0)
    ids = np.arange(1, rows + 1)
    made.reset_rows(ids, ids.astype(np.uint64))
    return made


def batches(rows: int, count: int, size: int) -> list[Batch]:
    """Return random batches."""
    rng = np.random.default_rng(0)
    return [
        Batch(
            rows=rng.integers(1, rows + 1, (size, FIELDS)),
            sequences=rng.integers(1, rows + 1, (size, HISTORY)),
            numbers=rng.normal(size=(size, NUMBERS)).astype(np.float32),
            label=(rng.random(size) < 0.1).astype(np.float32),
            request=rng.integers(0, size, size).astype(np.uint64),
            fresh=size,
        )
        for _ in range(count)
    ]


def learn(model: Learner, data: list[Batch], seconds: float, saver: Saver | None, every_s: float,
          saving: threading.Event) -> tuple[int, float, float, int]:  # fmt: skip
    """Learn for ``seconds``; return the examples, the wall, the stall and the checkpoints."""
    started = last = time.perf_counter()
    stall, examples, step, saves = 0.0, 0, 0, 0
    while (now := time.perf_counter()) - started < seconds:
        if saver is not None and now - last >= every_s and not saving.is_set():
            saving.set()
            began = time.perf_counter()
            saver.save(Barrier({}, Position(), 0, False), {"learner": model.state()}, step)
            stall += time.perf_counter() - began
            last, saves = now, saves + 1
        batch = data[step % len(data)]
        model.learn(batch)
        examples += len(batch)
        step += 1
    return examples, time.perf_counter() - started, stall, saves


def main() -> None:
    """Run the benchmark and print one line of JSON, last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between checkpoints")
    parser.add_argument("--seconds", type=float, default=31.0, help="of the arm with checkpoints")
    args = parser.parse_args()
    model, data = learner(args.rows), batches(args.rows, 30, 4096)
    saving = threading.Event()
    failures: list[OSError] = []
    saved: list[Checkpoint] = []

    def on_saved(checkpoint: Checkpoint) -> None:
        saved.append(checkpoint)
        saving.clear()

    with tempfile.TemporaryDirectory() as name:
        saver = Saver(
            Checkpoints(Path(name), keep=1),
            {},
            saved=on_saved,
            failed=failures.append,
            written=lambda state: model.recycle(state["learner"]),
        )
        learn(model, data, 1.0, None, args.every, saving)  # warm-up
        free = learn(model, data, args.seconds / 3, None, args.every, saving)
        busy = learn(model, data, args.seconds, saver, args.every, saving)
        saver.wait()
        bytes_each = sum(f["bytes"] for f in saved[-1].manifest["files"].values())
    if failures:
        raise failures[0]
    rates = [examples / wall for examples, wall, *_ in (free, busy)]
    report(
        "checkpoint",
        **{
            "stall_share": round(busy[2] / busy[1], 4),
            "slowdown": round(1 - rates[1] / rates[0], 4),
            "stall_s_each": round(busy[2] / busy[3], 3),
            "checkpoints": busy[3],
            "checkpoint_mb": round(bytes_each / 1e6, 1),
            "every_s": args.every,
            "rows": args.rows,
            "examples_per_s": round(rates[1]),
        },
    )


if __name__ == "__main__":
    main()
