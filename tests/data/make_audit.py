"""Writes audit.safetensors beside this file: predictions of 600 test and 400 validation samples, and what scikit-learn and NumPy say of
them: calibration, ROC curve, intersections, thresholds by trying all, the ends of bootstrap intervals with their own error, and how
another model's figures differ.

Needs numpy, scipy, scikit-learn and safetensors. Takes a minute.
"""
import json
from itertools import combinations
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy.stats import rankdata
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve

GROUPS = {"race": 3, "gender": 2, "language": 3}
RESAMPLES, BATCHES, LEVEL = 4000, 10, 0.95
out = {}


def people(rng, n):
    """Probabilities near one half, as zero-shot gives them, with ties; race 0 is told apart worst; language 2 has few, -1 is unknown."""
    race = rng.choice(3, n, p=[0.15, 0.25, 0.6])
    gender = rng.choice(2, n, p=[0.55, 0.45])
    language = rng.choice([-1, 0, 1, 2], n, p=[0.05, 0.8, 0.13, 0.02])
    label = (rng.random(n) < np.array([0.35, 0.6, 0.5])[race]).astype(np.int64)
    signal = np.array([0.3, 0.8, 1.2])[race] * (label - 0.5) + 0.25 * gender
    p = 1 / (1 + np.exp(-(0.4 * (signal + rng.normal(size=n)))))
    return np.round(p, 3), label, np.stack([race, gender, language]).astype(np.int64)


def calibration_error(p, y):
    shares, means = calibration_curve(y, p, n_bins=10, strategy="quantile")
    edges = np.quantile(p, np.linspace(0, 1, 11))
    return calibration_error_at(p, y, edges)[0], shares, means, calibration_error_at(p, y, edges)[1]


def calibration_error_at(p, y, edges):
    bins = np.searchsorted(edges[1:-1], p)
    counts = np.bincount(bins, minlength=10)
    gaps = np.abs(np.bincount(bins, p, 10) - np.bincount(bins, y, 10))
    return gaps.sum() / len(p), counts[counts > 0]


def auc(p, y):
    """scikit-learn's area, by SciPy's ranks: a hundred thousand of them are needed."""
    positives = y.sum()
    if positives in (0, len(y)):
        return np.nan
    wins = rankdata(p)[y == 1].sum() - positives * (positives + 1) / 2
    return wins / (positives * (len(y) - positives))


def spread(p, y, called, groups, edges, small=()):
    """What compares groups; `edges` of each group's calibration bins."""
    whole = auc(p, y)
    members = [groups == g for g in range(len(edges)) if g not in small]
    aucs = np.array([auc(p[m], y[m]) for m in members])
    aucs = aucs[~np.isnan(aucs)]
    rate = lambda m: called[m].mean() if m.any() else np.nan
    gap = lambda rates: np.nanmax(rates) - np.nanmin(rates)
    tpr, fpr = ([rate(m & (y == c)) for m in members] for c in (1, 0))
    errors = [calibration_error_at(p[groups == g], y[groups == g], e)[0] for g, e in enumerate(edges) if g not in small and e is not None]
    return {
        "es_auc": whole / (1 + np.abs(aucs - whole).sum()), "dpd": gap([rate(m) for m in members]), "eod": max(gap(tpr), gap(fpr)),
        "equal_opportunity": gap(tpr), "auc_gap": gap(aucs), "worst_auc": aucs.min(), "calibration_gap": gap(errors),
    }  # fmt: skip


def bootstrap(name, strata, figures):
    """Ends of percentile intervals, and the standard error of each end from batches of the resamples."""
    rng = np.random.default_rng(5)
    members = [np.flatnonzero(strata == s) for s in np.unique(strata)]
    drawn = [figures(np.concatenate([rng.choice(m, len(m)) for m in members])) for _ in range(RESAMPLES)]
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    for figure in drawn[0]:
        values = np.array([d[figure] for d in drawn])
        ends = np.quantile(values, tails)
        batches = np.quantile(values.reshape(BATCHES, -1), tails, axis=1)
        out[f"interval.{name}.{figure}"] = np.stack([ends, batches.std(axis=1, ddof=1) / np.sqrt(BATCHES)])


rng = np.random.default_rng(11)
test, validation = people(rng, 600), people(rng, 400)
for name, (p, y, attributes) in {"test": test, "validation": validation}.items():
    out |= {f"{name}.probability": p, f"{name}.label": y, f"{name}.attributes": attributes}

p, y, attributes = test
assert abs(auc(p, y) - roc_auc_score(y, p)) < 1e-12
called = p >= 0.5
error, shares, means, counts = calibration_error(p, y)
out |= {"calibration_error": error, "brier": brier_score_loss(y, p)}
out |= {"calibration.positive": shares, "calibration.probability": means, "calibration.samples": counts}
fpr, tpr, thresholds = roc_curve(y, p, drop_intermediate=False)
out |= {"roc.fpr": fpr, "roc.tpr": tpr, "roc.thresholds": thresholds[1:]}
edges = np.quantile(p, np.linspace(0, 1, 11))
bootstrap("all", y, lambda i: {"auc": auc(p[i], y[i]), "accuracy": (called[i] == y[i]).mean(),
                               "calibration_error": calibration_error_at(p[i], y[i], edges)[0], "brier": ((p[i] - y[i]) ** 2).mean()})  # fmt: skip


def edges_of(groups, count):
    return [np.quantile(p[groups == g], np.linspace(0, 1, 11)) if (groups == g).any() else None for g in range(count)]


for (name, count), values in zip(GROUPS.items(), attributes):
    own = edges_of(values, count)
    out |= {f"{name}.{figure}": value for figure, value in spread(p, y, called, values, own).items()}
    out[f"{name}.calibration_errors"] = np.array([calibration_error(p[values == g], y[values == g])[0] for g in range(count)])
    out[f"{name}.briers"] = np.array([brier_score_loss(y[values == g], p[values == g]) for g in range(count)])
values, own = attributes[0], edges_of(attributes[0], 3)


def of_race(i):
    groups = values[i]
    return spread(p[i], y[i], called[i], groups, own) | {"Asian": auc(p[i][groups == 0], y[i][groups == 0])}


bootstrap("race", values * 2 + y, of_race)

for (i, (a, n)), (j, (b, m)) in combinations(enumerate(GROUPS.items()), 2):
    cell = np.where((attributes[i] < 0) | (attributes[j] < 0), -1, attributes[i] * m + attributes[j])
    counts = np.array([[(cell == c).sum(), y[cell == c].sum()] for c in range(n * m)])
    small = [c for c in range(n * m) if counts[c, 0] < 20 or min(counts[c, 1], counts[c, 0] - counts[c, 1]) < 5]
    found = spread(p, y, called, cell, edges_of(cell, n * m), small)
    out |= {f"{a} x {b}.{figure}": value for figure, value in found.items()}
    out |= {f"{a} x {b}.counts": counts, f"{a} x {b}.small": np.array(small, dtype=np.int64)}


def candidates(p):
    every = np.unique(np.concatenate([p, [0.0, 1.0]]))[::-1]
    return np.append((every[:-1] + every[1:]) / 2, 0.0)


def first_best(found):
    return int(np.argmax(np.round(found, 12)))


q, z, others = validation
tries = candidates(q)
youden = tries[first_best([(q[z == 1] >= t).mean() - (q[z == 0] >= t).mean() for t in tries])]
out["youden"] = youden
for (name, count), chosen_by, measured_by in zip(GROUPS.items(), others, attributes):
    for kind, rows in {"equal_opportunity": lambda z: z == 1, "demographic_parity": lambda z: z >= 0}.items():
        level, own = (q[rows(z)] >= youden).mean(), []
        for g in range(count):
            mine = chosen_by == g
            is_small = mine.sum() < 20 or min(z[mine].sum(), (1 - z[mine]).sum()) < 5
            own_tries, pool = candidates(q[mine]), q[mine & rows(z)]
            own.append(youden if is_small else own_tries[first_best([-abs((pool >= t).mean() - level) for t in own_tries])])
        own = np.array(own)
        answer = p >= np.where(measured_by < 0, youden, own[measured_by])
        found = spread(p, y, answer, measured_by, edges_of(measured_by, count))
        out[f"thresholds.{name}.{kind}"] = own
        out[f"thresholds.{name}.{kind}.after"] = np.array([(answer == y).mean(), found["dpd"], found["eod"], found["equal_opportunity"]])

# Another model with three seeds on the same test samples: it tells race 0 better, each seed with noise of its own.
noise = np.random.default_rng(23)
seeds = np.stack([np.round(np.clip(p + 0.05 * (y - 0.5) * (attributes[0] == 0) + 0.06 * noise.normal(size=len(p)), 0, 1), 3) for _ in range(3)])
out["seeds"] = seeds


def of_seeds(i, chosen):
    def es_auc(p):
        whole = auc(p[i], y[i])
        return whole / (1 + sum(abs(auc(p[i][values[i] == g], y[i][values[i] == g]) - whole) for g in range(3)))

    mean = lambda figure: np.mean([figure(seeds[s]) for s in chosen])
    one = {"auc": mean(lambda p: auc(p[i], y[i])), "es_auc": mean(es_auc)}
    return one | {"auc less": one["auc"] - auc(p[i], y[i]), "es_auc less": one["es_auc"] - es_auc(p)}


chance = np.random.default_rng(29)
out |= {f"seeds.{figure}": value for figure, value in of_seeds(np.arange(len(p)), range(3)).items()}
bootstrap("seeds by class", y, lambda i: of_seeds(i, chance.integers(0, 3, 3)))
bootstrap("seeds by race", values * 2 + y, lambda i: of_seeds(i, chance.integers(0, 3, 3)))

tensors = {name: np.ascontiguousarray(np.atleast_1d(value)) for name, value in out.items()}
settings = {"kind": "audit", "resamples": RESAMPLES, "level": LEVEL}
save_file(tensors, Path(__file__).with_name("audit.safetensors"), metadata={k: json.dumps(v) for k, v in settings.items()})
