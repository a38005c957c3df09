"""Writes the folder report/ beside this file: what training and evaluation leave in a model's folder, for tests of the report.

Figures are scikit-learn's and NumPy's, of generated predictions; the log, the routing and the start are made up, in the form that
training gives them. `python make_report.py PREDICTIONS.csv OUT` takes the predictions from a file instead.

Needs numpy and scikit-learn.
"""
import csv
import itertools
import json
import sys
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

NAMES = {
    "race": ["Asian", "Black", "White"],
    "gender": ["Female", "Male"],
    "ethnicity": ["Non-Hispanic", "Hispanic"],
    "language": ["English", "Spanish", "Other"],
}
RESAMPLES = 200


def generated(samples, generator):
    """The model is worse for Black people, there are few Asian ones, and nobody's language other than three."""
    groups = {
        "race": generator.choice(3, samples, p=[0.1, 0.3, 0.6]),
        "gender": generator.choice(2, samples),
        "ethnicity": generator.choice([0, 1, -1], samples, p=[0.75, 0.2, 0.05]),
        "language": generator.choice(3, samples, p=[0.9, 0.07, 0.03]),
    }
    label = generator.choice(2, samples)
    label[groups["language"] == 2] = 1  # one kind only: undefined
    strength = np.where(groups["race"] == 1, 0.7, 2.0)
    logit = 0.35 * (strength * (label - 0.5) + generator.normal(size=samples))
    return label, (1 / (1 + np.exp(-logit))).round(6), groups


def calibration_error(p, y):
    edges = np.quantile(p, np.arange(1, 10) / 10)
    bins = np.searchsorted(edges, p, side="left")
    return sum(abs(np.sum((p - y)[bins == b])) for b in range(10)) / len(p)


def figures(p, y):
    both = 0 < y.sum() < len(y)
    called = p >= 0.5
    rate = lambda where: float(called[where].mean()) if where.any() else None
    return {
        "samples": len(y),
        "positives": int(y.sum()),
        "auc": float(roc_auc_score(y, p)) if both else None,
        "accuracy": float((called == y).mean()) if len(y) else None,
        "positive_rate": rate(np.ones(len(y), bool)),
        "true_positive_rate": rate(y == 1),
        "false_positive_rate": rate(y == 0),
        "calibration_error": float(calibration_error(p, y)) if len(y) else None,
        "brier": float(np.mean((p - y) ** 2)) if len(y) else None,
    }


def gap(values):
    values = [v for v in values if v is not None]
    return max(values) - min(values) if len(values) > 1 else None


def attribute(whole, groups, counts_only):
    small = [n for n, g in groups.items() if g["samples"] < 20 or min(g["positives"], g["samples"] - g["positives"]) < 5]
    if counts_only:
        for name in small:
            groups[name] = {k: v if k in ("samples", "positives") else None for k, v in groups[name].items()}
    of = lambda figure: [g[figure] for g in groups.values()]
    aucs = [a for a in of("auc") if a is not None]
    scaled = lambda figure: whole[figure] / (1 + sum(abs(v - whole[figure]) for v in of(figure) if v is not None))
    equal, false = gap(of("true_positive_rate")), gap(of("false_positive_rate"))
    worst = min((n for n in groups if groups[n]["auc"] is not None), key=lambda n: groups[n]["auc"], default=None)
    return {
        "es_auc": scaled("auc") if aucs else None,
        "es_acc": scaled("accuracy"),
        "dpd": gap(of("positive_rate")),
        "eod": max(equal, false) if None not in (equal, false) else None,
        "equal_opportunity": equal,
        "group_auc": {n: g["auc"] for n, g in groups.items()},
        "auc_gap": gap(aucs),
        "worst_group": worst,
        "worst_auc": groups[worst]["auc"] if worst else None,
        "disparity_std": float(np.std(aucs)) / whole["auc"] if len(aucs) > 1 else None,
        "disparity_max": gap(aucs) / whole["auc"] if len(aucs) > 1 else None,
        "calibration_gap": gap(of("calibration_error")),
        "groups": groups,
        "undefined": [n for n, g in groups.items() if g["auc"] is None],
        "small": small,
    }


def measure(p, y, partitions):
    """partitions: {attribute: ({name: members as booleans}, counts only)}."""
    whole = figures(p, y)
    parts = {a: attribute(whole, {n: figures(p[m], y[m]) for n, m in named.items()}, few) for a, (named, few) in partitions.items()}
    return whole, parts


def intervals(found, resampled):
    out = {}
    for name, value in found.items():
        if isinstance(value, float):
            values = [r[name] for r in resampled if r[name] is not None]
            out[name] = [float(v) for v in np.quantile(values, [0.025, 0.975])]
    return out


def metrics(p, y, groups, settings, generator):
    members = {a: {n: groups[a] == i for i, n in enumerate(names)} for a, names in NAMES.items()}
    partitions = {a: (named, False) for a, named in members.items()}
    for a, b in itertools.combinations(NAMES, 2):
        both = {f"{n} x {m}": members[a][n] & members[b][m] for n in NAMES[a] for m in NAMES[b]}
        partitions[f"{a} x {b}"] = (both, True)
    whole, parts = measure(p, y, partitions)
    resampled = []
    for _ in range(RESAMPLES):
        at = np.concatenate([generator.choice(np.flatnonzero(y == k), (y == k).sum()) for k in (0, 1)])
        again = {a: ({n: m[at] for n, m in named.items()}, few) for a, (named, few) in partitions.items()}
        resampled.append(measure(p[at], y[at], again))
    for name, part in parts.items():
        values = groups[name] if name in groups else None
        part["intervals"] = intervals(part, [r[1][name] for r in resampled])
        part["unknown"] = int((values == -1).sum()) if values is not None else 0
        for group, found in part["groups"].items():
            found["intervals"] = intervals(found, [r[1][name]["groups"][group] for r in resampled])
    wanted = {k: whole[k] for k in ("samples", "positives", "auc", "accuracy", "calibration_error", "brier")}
    return {
        **wanted,
        "intervals": intervals(wanted, [r[0] for r in resampled]),
        "bootstrap": {"resamples": RESAMPLES, "level": 0.95, "seed": 1},
        "attributes": {a: parts[a] for a in NAMES},
        "intersections": {a: parts[a] for a in parts if " x " in a},
        "thresholds": {a: thresholds(p, y, members[a], parts[a]) for a in NAMES},
        "settings": settings,
    }


def thresholds(p, y, members, part):
    """Each group's threshold lets 8 of 10 of those with glaucoma be found."""
    def choice(of):
        called = np.zeros(len(y), bool)
        for name, mine in members.items():
            called |= mine & (p >= of[name])
        rates = {}
        for name, mine in members.items():
            mean = lambda where, what: float(what[where].mean()) if where.any() else None
            rates[name] = {
                "accuracy": mean(mine, called == y),
                "positive_rate": mean(mine, called),
                "true_positive_rate": mean(mine & (y == 1), called),
                "false_positive_rate": mean(mine & (y == 0), called),
            }
        of_all = lambda figure: [r[figure] for r in rates.values()]
        equal, false = gap(of_all("true_positive_rate")), gap(of_all("false_positive_rate"))
        return {
            "threshold": float(np.quantile(p[y == 1], 0.2)),
            "groups": of,
            "small": part["small"],
            "accuracy": float((called == y).mean()),
            "dpd": gap(of_all("positive_rate")),
            "eod": max(equal, false) if None not in (equal, false) else None,
            "equal_opportunity": equal,
            "rates": rates,
        }

    one = float(np.quantile(p[y == 1], 0.2))
    own = {n: one if n in part["small"] else float(np.quantile(p[m & (y == 1)], 0.2)) for n, m in members.items()}
    return {"one_threshold": choice({n: one for n in members}), "equal_opportunity": choice(own)}


def routing(groups, generator):
    def load(experts, samples, token, lean):
        share = generator.dirichlet(np.full(experts, 40.0) + 30 * lean)
        gates = generator.dirichlet(np.full(experts, 3.0), 500)
        return {
            "samples": int(samples),
            "load": share.tolist(),
            "importance": share.tolist(),
            "dropped": float(generator.uniform(0.2, 0.35)) if token else 0.0,
            "entropy": float(-(gates * np.log(gates)).sum(1).mean()),
            "dispersion": (gates.var(0, ddof=1) * 0.1).tolist(),
        }

    def mixture(experts, given, token):
        plain, lean = np.zeros(experts), np.eye(experts)[1]
        of = lambda a: {n: load(experts, (groups[a] == i).sum(), token, lean if n == "Black" else plain) for i, n in enumerate(NAMES[a])}
        everyone = load(experts, len(groups["race"]), token, plain)
        return {"experts": experts, "input": given, "all": everyone, "attributes": {a: of(a) for a in NAMES}}

    mixtures = {
        "vision_token": mixture(10, "images", True),
        "text_token": mixture(10, "notes", True),
        "vision_feature": mixture(3, "images", False),
        "text_feature": mixture(3, "notes", False),
    }
    return {"mixtures": mixtures}


def log(generator):
    lines = []
    for epoch in range(1, 11):
        far = lambda size: float(size * (0.4 + 1 / epoch) * generator.uniform(0.8, 1.2))
        groups = {n: {"distance": far(4e-3), "dispersion": far(2e-5)} for n in NAMES["race"]}
        auc = 0.86 - 0.3 / epoch + float(generator.normal() * 0.01)
        clip = 3.4 - 0.05 * epoch
        lines.append({
            "epoch": epoch, "total": clip + 1e-8, "clip": clip, "distance": far(4e-9), "dispersion": far(2e-9),
            "batch_variance": 0.0, "gate_ce": 0.0, "validation_auc": auc,
            "validation_es_auc": {a: auc - far(0.02) for a in NAMES}, "groups": {"race": groups},
        })
    return lines


START = {
    "terms": {
        "clip": {"value": 3.4657, "share": 0.99999999, "gradient_norm": 1.7},
        "distance": {"value": 5.2e-9, "share": 1.5e-9, "gradient_norm": 3e-9},
        "dispersion": {"value": 1.6e-9, "share": 4.6e-10, "gradient_norm": 2.1e-8},
    },
    "gradient_norms": {"vision_tower": 1.2, "text_tower": 0.9, "vision_token_moe": 0.3, "text_token_moe": 0.2, "vision_feature_moe": 0.4},
    "warnings": ["the dispersions are 4.6e-10 of the loss and steer nothing; raise loss.lambda_dispersion"],
}
SETTINGS = {
    "preset": "paper",
    "arch": "tiny",
    "attributes": [{"name": "race", "weight": 1.0}],
    "model": {"mixtures": True, "weights": None},
    "loss": {"lambda_clip": 1.0, "lambda_distance": 1e-6, "lambda_dispersion": 1e-4},
    "training": {"epochs": 10, "batch": 32, "rate": 1e-3, "seed": 1},
    "data": {"text": "mix", "shift": 4, "mirror": True},
}


def main():
    generator = np.random.default_rng(7)
    if len(sys.argv) == 3:
        table = list(csv.DictReader(open(sys.argv[1])))
        column = lambda name, kind: np.array([kind(row[name]) for row in table])
        y, p, groups = column("label", int), column("probability", float), {a: column(a, int) for a in NAMES}
        out = Path(sys.argv[2])
    else:
        y, p, groups = generated(360, generator)
        out = Path(__file__).with_name("report")
    out.mkdir(parents=True, exist_ok=True)
    write = lambda name, value: (out / name).write_text(json.dumps(value, indent=1) + "\n")
    write("metrics.json", metrics(p, y, groups, SETTINGS, generator))
    write("routing.json", routing(groups, generator))
    write("start.json", START)
    write("settings.json", SETTINGS)
    (out / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log(generator)))
    with open(out / "predictions.csv", "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["file", "label", "probability", *NAMES])
        for i in range(len(y)):
            rows.writerow([f"data_{i:05}.npz", y[i], p[i], *(groups[a][i] for a in NAMES)])


main()
