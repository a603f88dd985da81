"""The commands, in the order in which a newcomer meets them."""

from keepstream.commands import (
    checkpoints,
    compare,
    deadletters,
    demo,
    features,
    init,
    produce,
    replay,
    simulate,
    status,
    topics,
    train,
    worker,
)

COMMANDS = (
    demo.COMMAND,
    init.COMMAND,
    features.COMMAND,
    replay.COMMAND,
    train.COMMAND,
    worker.COMMAND,
    topics.COMMAND,
    produce.COMMAND,
    simulate.COMMAND,
    compare.COMMAND,
    checkpoints.COMMAND,
    deadletters.COMMAND,
    status.COMMAND,
)
