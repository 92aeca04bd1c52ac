"""Run checkpoints that are not what they were: cut, lost, exchanged, renamed, of another round, seed or rule.

Every case goes on with one round more; it must end with the undisturbed numbers, or be refused.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import study
from outcomes import Case, Lab, Result, judged

Change = Callable[[Path], None]


def _lost(path: Path) -> None:
    path.unlink()


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 100)


def _twice(path: Path) -> None:
    path.write_bytes(path.read_bytes() * 2)


def _zeroed(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES = (_lost, _emptied, _cut, _longer, _twice, _zeroed, _folder)
# Commands on the folder of a run; $A is its group of checkpoints (rounds 2 and 3), $B that of other seeds, $C that of
# another rule, $OTHER the folder with other seeds.
SHELLS = {
    "rounds swapped": "mv $A/2 $A/t; mv $A/3 $A/2; mv $A/t $A/3",
    "round 3 is called 4": "mv $A/3 $A/4",
    "round 3 is called 7": "mv $A/3 $A/7",
    "round 2 is called 3": "rm -r $A/3; mv $A/2 $A/3",
    "round 2 again as 4": "cp -r $A/2 $A/4",
    "round 3 again as 1": "cp -r $A/3 $A/1",
    "round 3 again as 100": "cp -r $A/3 $A/100",
    "round 3 again as 03": "cp -r $A/3 $A/03",
    "round 3 again as 0": "cp -r $A/3 $A/0",
    "round 3 with a sign": "mv $A/3 $A/+3",
    "round 3 with a blank": "mv $A/3 $A/3\\ ",
    "round 3 in other digits": "mv $A/3 $A/\N{FULLWIDTH DIGIT THREE}",
    "round 3 as a power": "cp -r $A/3 $A/³",
    "a round of twenty digits": "cp -r $A/3 $A/99999999999999999999",
    "both rounds lost": "rm -r $A/2 $A/3",
    "newest round lost": "rm -r $A/3",
    "oldest round lost": "rm -r $A/2",
    "newest round empty": "rm -r $A/3; mkdir $A/3",
    "newest round a file": "rm -r $A/3; touch $A/3",
    "newest round a link to the other": "rm -r $A/3; ln -s 2 $A/3",
    "newest round a link to nothing": "rm -r $A/3; ln -s nothing $A/3",
    "newest round a link to itself": "rm -r $A/3; ln -s 3 $A/3",
    "group lost": "rm -r $A",
    "group empty": "rm -r $A; mkdir $A",
    "group a file": "rm -r $A; touch $A",
    "group a link to nothing": "rm -r $A; ln -s nothing $A",
    "group renamed": "mv $A $A-old",
    "group in capitals": "mv $A $(dirname $A)/ABCDEF0123456789",
    "group twice": "cp -r $A $(dirname $A)/0123456789abcdef",
    "all checkpoints lost": "rm -r checkpoints",
    "checkpoints a file": "rm -r checkpoints; touch checkpoints",
    "checkpoints a link": "mv checkpoints elsewhere; ln -s elsewhere checkpoints",
    "checkpoints a link to nothing": "rm -r checkpoints; ln -s nothing checkpoints",
    "checkpoints of other seeds": "rm -r checkpoints; cp -r $OTHER/checkpoints .",
    "checkpoints of other seeds beside": "cp -r $B $(dirname $A)/",
    "other seeds' under this name": "rm -r $A; cp -r $B $A",
    "other seeds' round 3": "rm -r $A/3; cp -r $B/3 $A/3",
    "other seeds' round 3 as 4": "cp -r $B/3 $A/4",
    "other rule's under this name": "rm -r $A; cp -r $C $A",
    "other rule's round 3": "rm -r $A/3; cp -r $C/3 $A/3",
    "other seeds' arrays": "rm -r $A/3/state; cp -r $B/3/state $A/3/state",
    "other seeds' list": "rm -r $A/3/about; cp -r $B/3/about $A/3/about",
    "other rule's arrays": "rm -r $A/3/state; cp -r $C/3/state $A/3/state",
    "other rule's list": "rm -r $A/3/about; cp -r $C/3/about $A/3/about",
    "round 2's arrays": "rm -r $A/3/state; cp -r $A/2/state $A/3/state",
    "round 2's list": "rm -r $A/3/about; cp -r $A/2/about $A/3/about",
    "arrays lost": "rm -r $A/3/state",
    "list lost": "rm -r $A/3/about",
    "arrays and list exchanged": "mv $A/3/state $A/t; mv $A/3/about $A/3/state; mv $A/t $A/3/about",
    "a foreign file in a round": "echo x > $A/3/notes.txt; echo x > $A/3/state/notes.txt; mkdir $A/3/other",
    "a foreign file in the group": "echo x > $A/notes.txt; mkdir $A/notes; echo x > $A/9",
    "a foreign file among the groups": "touch checkpoints/notes.txt checkpoints/3; mkdir -p checkpoints/notes/3",
    "hidden files": "echo x > $A/.DS_Store; echo x > checkpoints/.DS_Store; echo x > .DS_Store; echo x > $A/3/._x",
    "half of a save": "mkdir $A/4.orbax-checkpoint-tmp-17; cp -r $A/3/state $A/4.orbax-checkpoint-tmp-17",
    "half of a save, round 3 lost": "mv $A/3 $A/3.orbax-checkpoint-tmp-17",
    "everything an hour older": "find . -exec touch -d '1 hour ago' {} +",
    "everything of the year 2100": "find . -exec touch -d '2100-01-01' {} +",
    "everything copied": "cp -r . ../copy; find . -mindepth 1 -delete; cp -r ../copy/. .",
    "rows lost": "rm clients.parquet",
    "rows of other seeds": "cp $OTHER/clients.parquet .",
    "list of cells lost": "rm cells.parquet",
    "list of cells of other seeds": "cp $OTHER/cells.parquet .",
    "both tables of other seeds": "cp $OTHER/*.parquet .",
    "both tables lost": "rm *.parquet",
    "tables exchanged": "mv cells.parquet t; mv clients.parquet cells.parquet; mv t clients.parquet",
    "rows of round 4 of another run": "cp $LATER/clients.parquet .",
    "rows of round 1": "cp $EARLIER/clients.parquet .",
    "tables of round 1": "cp $EARLIER/*.parquet .",
    "checkpoints of round 1": "rm -r checkpoints; cp -r $EARLIER/checkpoints .",
    "record lost": "rm experiment.json",
    "record of other seeds": "cp $OTHER/experiment.json .",
    "config lost": "rm config.yaml",
    "config of other seeds": "cp $OTHER/config.yaml .",
    "record and config lost": "rm experiment.json config.yaml",
    "everything but checkpoints lost": "rm *.parquet experiment.json config.yaml",
    "halves of tables": "echo x > .clients.parquet.tmp; echo x > .cells.parquet.tmp; echo x > .config.yaml.tmp",
    "halves of tables are folders": "mkdir .clients.parquet.tmp .cells.parquet.tmp .config.yaml.tmp",
    "lock lost": "rm .lock",
    "damaged before": "mkdir damaged; mv $A/3 damaged/$(basename $A)-3",
    "damaged is a file, newest cut": "touch damaged; rm -r $A/3/state",
    "damaged is a link, newest cut": "ln -s /nonexistent damaged; rm -r $A/3/state",
}


def cases(lab: Lab) -> Iterator[Case]:
    newest = _group(lab.folders["round 3"]) / "3"
    files = [path.relative_to(newest) for path in sorted(newest.rglob("*")) if path.is_file()]
    for file in files:
        yield from (Case("file", changed, (file, change)) for change in CHANGES)
        yield from (Case("file", exchanged, (file, other)) for other in ("round 2", "other seeds", "other rule"))
    yield from (Case(name, shell, (name,)) for name in SHELLS)


def _group(out: Path) -> Path:
    return next((out / "checkpoints").iterdir())


def changed(lab: Lab, scratch: Path, file: Path, change: Change) -> Iterator[Result]:
    out = _copied(lab, scratch)
    change(_group(out) / "3" / file)
    yield _gone_on(lab, out, f"{file} {change.__name__.strip('_')}")


def exchanged(lab: Lab, scratch: Path, file: Path, other: str) -> Iterator[Result]:
    """The file of another checkpoint in its place, where that has one of the name."""
    out = _copied(lab, scratch)
    source = _group(out) / "2" if other == "round 2" else _group(lab.folders[other]) / "3"
    candidates = [*source.glob(str(file)), *source.glob(str(file.parent / "*"))]
    files = [path for path in candidates if path.is_file()]
    if files:
        shutil.copyfile(files[0], _group(out) / "3" / file)
    yield _gone_on(lab, out, f"{file} of {other}")


def shell(lab: Lab, scratch: Path, name: str) -> Iterator[Result]:
    out = _copied(lab, scratch)
    places = {"A": _group(out), "B": _group(lab.folders["other seeds"]), "C": _group(lab.folders["other rule"])}
    places |= {"OTHER": lab.folders["other seeds"], "LATER": lab.folders["round 4"], "EARLIER": lab.folders["round 1"]}
    environment = os.environ | {key: str(path) for key, path in places.items()}
    subprocess.run(["/bin/sh", "-ec", SHELLS[name]], cwd=out, env=environment, check=True)
    yield _gone_on(lab, out, name)


def _copied(lab: Lab, scratch: Path) -> Path:
    return Path(shutil.copytree(lab.folders["round 3"], scratch / "out"))


def _gone_on(lab: Lab, out: Path, name: str) -> Result:
    return Result(name, *judged(study.started(lab, out, "rounds=4"), lab.truth["round 4"]))
