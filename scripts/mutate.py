#!/usr/bin/env python3
"""Changes one thing at a time in the kernels, and sees whether the tests notice.

    scripts/mutate.py [--count 20] [--only TEXT] [--log FILE]

tests/mutations/<stem>.txt lists the changes; its first line names the test binaries that are to notice:

    tests: gpu_gate
    == no barrier between two steps        what is changed, one sentence
    kernels/gate.cu                        in which file
    - the text to take out                 found once in it; several lines are one text
    + the text to put there instead
    survives: why nothing can notice       only for a change that changes nothing

Each change compiles its units into a shared library, which the test binaries, built once, load instead of their own kernels. With
--count so many are drawn by the commit. Exits with 1 if a change went unnoticed that does not say why, or the other way round.
"""
import argparse, concurrent.futures, json, os, pathlib, random, re, shutil, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
FEATURES = "cli,model,emulate"


def read_mutations():
    found = []
    for path in sorted((ROOT / "tests/mutations").glob("*.txt")):
        tests, entry = [], None
        for line in path.read_text().splitlines():
            if line.startswith("tests:"):
                tests = line.split()[1:]
            elif line.startswith("== "):
                entry = dict(stem=path.stem, tests=tests, what=line[3:].strip(), file=None, old=[], new=[], survives=None)
                found.append(entry)
            elif line.startswith("survives:"):
                entry["survives"] = line.split(":", 1)[1].strip()
            elif line[:2] in ("- ", "-"):
                entry["old"].append(line[2:])
            elif line[:2] in ("+ ", "+"):
                entry["new"].append(line[2:])
            elif line.strip() and not line.startswith("#"):
                entry["file"] = line.strip()
    for m in found:
        text = (ROOT / m["file"]).read_text()
        if text.count("\n".join(m["old"])) != 1:
            sys.exit(f"{m['stem']}: {m['what']}: its text is {text.count(chr(10).join(m['old']))} times in {m['file']}")
    return found


def build_tests(names):
    """The test binaries, and the folder that holds the kernels' archive."""
    command = ["cargo", "test", "--no-run", "--message-format=json", "--features", FEATURES]
    output = subprocess.run(command + [a for n in names for a in ("--test", n)], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    binaries, folder = {}, None
    for message in map(json.loads, output.splitlines()):
        if message["reason"] == "compiler-artifact" and message.get("executable"):
            binaries[message["target"]["name"]] = message["executable"]
        if message["reason"] == "build-script-executed" and any(p.endswith("fair_moe_kernels") for p in message["linked_libs"]):
            folder = pathlib.Path(message["out_dir"])
    return binaries, folder


def units_of(kernels, changed):
    """The .cu files whose includes reach a file."""
    def includes(path, seen):
        if path not in seen and path.exists():
            seen.add(path)
            for name in re.findall(r'^\s*#include "([\w./]+)"', path.read_text(), re.M):
                includes(kernels / name, seen)
        return seen
    return [unit for unit in sorted(kernels.rglob("*.cu")) if kernels / changed in includes(unit, set())]


def try_one(m, objects, binaries, scratch):
    kernels = scratch / "kernels"
    shutil.copytree(ROOT / "kernels", kernels)
    changed = pathlib.Path(m["file"]).relative_to("kernels")
    text = (kernels / changed).read_text().replace("\n".join(m["old"]), "\n".join(m["new"]), 1)
    (kernels / changed).write_text(text)
    fresh, names = [], []
    for unit in units_of(kernels, changed):
        name = re.sub(r"[/.]", "_", str(unit.relative_to(kernels)))
        target = scratch / f"{name}.o"
        command = ["c++", "-std=c++17", "-O2", "-fPIC", "-fno-gnu-unique", "-ftrivial-auto-var-init=pattern", "-w", "-Wno-psabi"]
        command += ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]
        made = subprocess.run([*command, "-x", "c++", "-I", kernels, "-c", unit, "-o", target], capture_output=True, text=True)
        if made.returncode:
            raise SystemExit(f"{m['stem']}: {m['what']}: does not compile: {made.stderr}")
        fresh.append(target)
        names.append(name)
    kept = [o for o in sorted(objects.glob("*.o")) if not any(re.match(rf"(?:[0-9a-f]+-)?{n}-[0-9a-f]+\.o$", o.name) for n in names)]
    library = scratch / "kernels.so"
    subprocess.run(["c++", "-shared", "-o", library, *fresh, *kept, "-lpthread"], check=True)
    return noticed(m["tests"], binaries, library)


def noticed(tests, binaries, library):
    """By which test, or none."""
    for name in tests:
        environment = dict(os.environ, FAIR_MOE_EMULATION=str(library))
        try:
            run = subprocess.run([binaries[name], "-q"], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            return f"{name}: hangs"
        if run.returncode:
            failed = re.findall(r"^    (\w+)$", run.stdout, re.M)
            return f"{name}: {failed[0] if failed else 'dies'}" + (f" and {len(set(failed)) - 1} more" if len(set(failed)) > 1 else "")
    return None


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--count", type=int)
    options.add_argument("--only", default="")
    options.add_argument("--log", type=pathlib.Path)
    options = options.parse_args()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    mutations = [m for m in read_mutations() if options.only in f"{m['stem']}: {m['what']}"]
    total = len(mutations)
    if options.count is not None:
        mutations = random.Random(commit).sample(mutations, min(options.count, total))
    binaries, folder = build_tests(sorted({t for m in mutations for t in m["tests"]}))

    lines, bad, begin = [], 0, time.time()
    def say(line):
        print(line, flush=True)
        lines.append(line)
    with tempfile.TemporaryDirectory() as temporary:
        temporary = pathlib.Path(temporary)
        objects = temporary / "objects"
        objects.mkdir()
        subprocess.run(["ar", "x", folder / "libfair_moe_kernels.a"], cwd=objects, check=True)
        library = temporary / "unchanged.so"
        subprocess.run(["c++", "-shared", "-o", library, *objects.glob("*.o"), "-lpthread"], check=True)
        wrong = noticed(sorted({t for m in mutations for t in m["tests"]}), binaries, library)
        if wrong:
            sys.exit(f"the tests fail without any change: {wrong}")
        def one(job):
            number, m = job
            scratch = temporary / str(number)
            scratch.mkdir()
            result = try_one(m, objects, binaries, scratch)
            shutil.rmtree(scratch)
            return m, result
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for m, by in pool.map(one, enumerate(mutations)):
                right = (by is None) == (m["survives"] is not None)
                bad += not right
                verdict = f"noticed by {by}" if by else f"survives: {m['survives']}" if m["survives"] else "NOT NOTICED"
                say(f"{m['stem']:10} {m['what']:60} {verdict}{'' if right else '   <- wrong'}")
    say(f"{len(mutations)} of {total} changes tried at {commit[:12]} in {time.time() - begin:.0f} s: {bad} wrong")
    if options.log:
        options.log.write_text("\n".join(lines) + "\n")
    return bad != 0


if __name__ == "__main__":
    sys.exit(main())
