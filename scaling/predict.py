"""Stage predict: fits the laws to all sizes, and predicts the held-out run before it is trained.

    python -m scaling.predict    -> scaling/prediction.json
"""

import json
import math

from pipeline import stage
from reprogpt.errors import ConfigError
from scaling.runs import (
    DVC_FILE,
    METRICS,
    PARAMS_FILE,
    PREDICTION,
    first,
    shared,
    sizes,
)


def main() -> None:
    with stage("predict", DVC_FILE, shared):
        import numpy as np

        from reprogpt.storage.files import write_json
        from scaling.law import LAWS, fit
        from scaling.parameters import parameters

        points = [point for name in sizes()
                  for point in json.loads((METRICS / f"{name}.json").read_text())]
        good = [point for point in points if math.isfinite(point["loss"])]
        if len(good) < 8:
            raise ConfigError(f"{PARAMS_FILE}: sizes and tokens must give 8 finished runs or more, "
                              f"and there are {len(good)}; add sizes, or lower train.lr")
        held_out = first("held_out")
        tokens = held_out.train.max_steps * held_out.train.batch_tokens
        found = {}
        for law in LAWS:
            columns = (np.array([point[key] for point in good]) for key in (law, "tokens", "loss"))
            fitted = fit(law, *columns)
            loss, low, high = fitted.predict(parameters(held_out)[law], tokens)
            found[law] = {"loss": loss, "low": low, "high": high,
                          "coefficients": fitted.coefficients()}
        write_json(PREDICTION, {"runs": len(good), "tokens": tokens, **parameters(held_out),
                                "laws": found})


if __name__ == "__main__":
    main()
