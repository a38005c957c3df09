#!/usr/bin/env python3
"""Kills a training at random moments, lets it go on, and compares what comes out byte for byte with an undisturbed one.

    scripts/kill_training.py [--program target/release/fair-moe] [--kills 20] [--seed 1] [-- OPTIONS OF TRAIN]

Each kill is a SIGKILL at a moment drawn evenly from the time that an undisturbed training takes, and every training is killed
until it comes to its end: first once, then twice, and so on. The file that tells times (cost.json) and the preprocessed images
are left out. Exit code 1 if anything differs.
"""

import argparse
import pathlib
import random
import subprocess
import sys
import tempfile
import time

OPTIONS = ["--preset", "clip", "--preset", "authors", "--preset", "paper", "--epochs", "2", "--batch", "16",
           "--set", "training.checkpoint_steps=2"]
TIMES = {"cost.json"}


def train(program, folder, out, options, seconds=None):
    """Runs a training, killed after so many seconds; true if it came to its end before."""
    command = [program, "train", "--data", "data", "--out", out, *options]
    if (folder / out / "config.json").exists():
        command.append("--resume")
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
        try:
            _, errors = run.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            run.kill()
            run.communicate()
            return False
    if run.returncode != 0:
        sys.exit(f"a training failed: {errors.decode()}")
    return True


def results(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.name not in TIMES and p.suffix != ".images"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/fair-moe")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--samples", type=int, default=80)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("options", nargs="*", default=OPTIONS)
    args = parser.parse_args()
    program, moments = str(pathlib.Path(args.program).resolve()), random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        make = [program, "data", "make", "--out", "data", "--samples", str(args.samples), "--seed", "3"]
        subprocess.run(make, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        start = time.monotonic()
        train(program, folder, "whole", args.options)
        whole = time.monotonic() - start
        want, kills, trainings, wrong = results(folder / "whole"), 0, 0, 0
        print(f"undisturbed: {whole:.1f} s, {len(want)} files, {sum(map(len, want.values()))} bytes")
        while kills < args.kills:
            out, own = f"killed{trainings}", []
            trainings += 1
            for _ in range(min(trainings, args.kills - kills)):
                moment = moments.uniform(0, whole)
                if train(program, folder, out, args.options, moment):
                    break
                own.append(moment)
            kills += len(own)
            train(program, folder, out, args.options)
            got = results(folder / out)
            differ = sorted(name for name in want.keys() | got.keys() if want.get(name) != got.get(name))
            wrong += bool(differ)
            shown = ", ".join(f"{moment:.2f} s" for moment in own)
            print(f"killed {len(own)} times ({shown}): {'the same bytes' if not differ else 'differs: ' + ', '.join(differ)}")
        print(f"{kills} kills in {trainings} trainings: {wrong} trainings differ")
        return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
