import numpy as np
import pandas as pd
import pytest
from simulated import table
from sklearn.metrics import roc_auc_score

from cxraug.evaluation.predictions import read_predictions
from cxraug.evaluation.room import learning_room


def arms(draws=4, seeds=2, *, boost=0.8, patients=200, seed=0):
    """Arm ``all`` (one seed a draw) separates better than ``control`` (several seeds)."""
    frames = []
    for draw in range(draws):
        for run in range(seeds):
            name = {"arm": "control", "draw": str(draw), "seed": str(run)}
            frames.append(table(patients, seed, run=100 + 10 * draw + run).assign(**name))
        frames.append(table(patients, seed, run=draw, boost=boost).assign(arm="all", draw=str(draw), seed="0"))
    return pd.concat(frames, ignore_index=True)


def mean_auroc(frame, arm):
    own = frame[frame["arm"] == arm]
    return own.groupby(["draw", "seed"])[["y_A", "p_A"]].apply(lambda r: roc_auc_score(r["y_A"], r["p_A"])).mean()


def test_the_room_is_the_difference_of_the_mean_aurocs():
    frame = arms()
    room = learning_room(read_predictions([frame]), "A", control="control", ceiling="all")
    assert room.ceiling == pytest.approx(mean_auroc(frame, "all"))
    assert room.control == pytest.approx(mean_auroc(frame, "control"))
    assert room.value == pytest.approx(room.ceiling - room.control)
    assert room.ci_low < room.value < room.ci_high


def test_its_interval_covers_the_true_room():
    latents = [arms(draws=6, seeds=1, patients=4000, seed=s) for s in (900, 901)]
    truth = np.mean([mean_auroc(f, "all") - mean_auroc(f, "control") for f in latents])
    rooms = [
        learning_room(
            read_predictions([arms(draws=3, seeds=1, patients=150, seed=s)]), "A", control="control", ceiling="all"
        )
        for s in range(60)
    ]
    assert np.mean([r.ci_low <= truth <= r.ci_high for r in rooms]) >= 0.88  # 0.95 - 2.5 binomial standard errors


def test_arms_without_a_common_draw_have_no_room():
    frame = arms(draws=2)
    frame.loc[frame["arm"] == "all", "draw"] = "x" + frame["draw"]
    with pytest.raises(ValueError, match="share no draw"):
        learning_room(read_predictions([frame]), "A", control="control", ceiling="all")
    with pytest.raises(ValueError, match="no predictions of C"):
        learning_room(read_predictions([arms(draws=1)]), "C", control="control", ceiling="all")
