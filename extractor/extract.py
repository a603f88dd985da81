"""Takes the vectors of all entities out of a model, as of one moment."""

from extractor.config import ExtractorConfig
from extractor.extraction import Extraction
from trainer.features import FeatureConfig
from trainer.learner import Learner
from trainer.schema import FeatureSchema
from trainer.view import View


def extract(
    schema: FeatureSchema,
    feature_config: FeatureConfig,
    learner: Learner,
    view: View,
    config: ExtractorConfig,
    *,
    everybody: bool = False,
) -> Extraction:
    """Return the vectors of all entities that were seen in the last ``active_h``.

    ``view`` is what the loop gave in its order, so that ``learner`` (a `Keep`) has learned exactly
    what came before it. ``everybody``: those not seen for longer too, for a full rebuild.
    """
    raise NotImplementedError
