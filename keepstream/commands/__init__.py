"""The commands, in the order in which a newcomer meets them."""

from keepstream.commands import (
    checkpoints,
    compare,
    deadletters,
    demo,
    features,
    init,
    replay,
    simulate,
    train,
)

COMMANDS = (
    demo.COMMAND,
    init.COMMAND,
    features.COMMAND,
    replay.COMMAND,
    train.COMMAND,
    simulate.COMMAND,
    compare.COMMAND,
    checkpoints.COMMAND,
    deadletters.COMMAND,
)
