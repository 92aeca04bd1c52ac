"""Commands in odd surroundings: no home, no standard output, a working directory that is gone, odd folders."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import server
import study
from outcomes import Case, Lab, Result, judged
from server import Ended

# The shell that starts the study's run ($RUN), in its folder, with $OUT and $CACHE below an empty $HERE.
SHELLS = {
    "as it is": "$RUN",
    "no HOME": "unset HOME FEDJAX_PARADOX_CACHE XDG_CACHE_HOME; $RUN",
    "empty environment": 'env -i PYTHONPATH="$PYTHONPATH" $RUN',
    "empty environment, no PATH": 'env -i PATH= PYTHONPATH="$PYTHONPATH" $RUN',
    "HOME that cannot be made": "unset FEDJAX_PARADOX_CACHE XDG_CACHE_HOME; HOME=/proc/none $RUN",
    "HOME that is a file": "unset FEDJAX_PARADOX_CACHE XDG_CACHE_HOME; touch $HERE/f; HOME=$HERE/f $RUN",
    "cache that cannot be made": "FEDJAX_PARADOX_CACHE=/proc/none $RUN",
    "cache that is a file": "touch $HERE/f; FEDJAX_PARADOX_CACHE=$HERE/f $RUN",
    "cache below a file": "touch $HERE/f; FEDJAX_PARADOX_CACHE=$HERE/f/cache $RUN",
    "cache is a link to nothing": "ln -s nothing $HERE/l; FEDJAX_PARADOX_CACHE=$HERE/l/cache $RUN",
    "cache is /dev/null": "FEDJAX_PARADOX_CACHE=/dev/null $RUN",
    "cache with a long name": f"FEDJAX_PARADOX_CACHE=$HERE/{'n' * 300} $RUN",
    "cache with brackets": "FEDJAX_PARADOX_CACHE='[red]c*[/x]' $RUN",
    "xla is a file": "mkdir -p $CACHE; touch $CACHE/xla; $RUN",
    "tokens are a folder": "mkdir -p $CACHE; (cd $WARM; ls -d tokens-*) | while read t; do mkdir $CACHE/$t; done; $RUN",
    "no temporary folder": "TMPDIR=/nonexistent $RUN",
    "standard output closed": "$RUN >&-",
    "standard error closed": "$RUN 2>&-",
    "both closed": "$RUN >&- 2>&-",
    "all closed": "$RUN <&- >&- 2>&-",
    "standard output full": "$RUN > /dev/full",
    "standard error full": "$RUN 2> /dev/full",
    "reader gone": "(sleep 0.3; $RUN; echo $? > $HERE/code) | true; sleep 0.1; exit $(cat $HERE/code)",
    "reader leaves": "($RUN; echo $? > $HERE/code) | head -n 1 > $HERE/line; exit $(cat $HERE/code)",
    "dumb terminal": "TERM=dumb $RUN",
    "narrow terminal": "COLUMNS=1 $RUN",
    "odd columns": "COLUMNS=abc $RUN",
    "ASCII locale": "LC_ALL=C PYTHONUTF8=0 PYTHONIOENCODING=ascii PYTHONCOERCECLOCALE=0 $RUN",
    "latin locale": "PYTHONIOENCODING=latin-1 $RUN",
    "no bytecode, no user site": "PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1 $RUN",
    "few files": "ulimit -n 64; $RUN",
    "small files": "ulimit -f 1; trap '' XFSZ; $RUN",
    "umask 777": "umask 777; $RUN",
    "umask 077": "umask 077; $RUN",
    "nice": "nice -n 19 $RUN",
    "warnings on": "PYTHONWARNINGS=default $RUN",
    "optimised": "PYTHONOPTIMIZE=2 $RUN",
    "64 bits": "JAX_ENABLE_X64=0 $RUN",
    "out is a file": "touch $OUT; $RUN",
    "out below a file": "touch $HERE/f; $RUN --out $HERE/f/out",
    "out is a device": "$RUN --out /dev/null",
    "out is /": "$RUN --out /",
    "out in /proc": "$RUN --out /proc/out",
    "out is a link to nothing": "ln -s nothing $OUT; $RUN",
    "out is a loop": "ln -s out $OUT; $RUN",
    "out with a long name": f"$RUN --out $HERE/{'n' * 300}",
    "out with a deep name": f"$RUN --out $HERE/{'/'.join(['n' * 100] * 60)}",
    "out is empty": "$RUN --out ''",
    "out with other files": "mkdir $OUT; echo mine > $OUT/mine.txt; $RUN",
    "out with a pipe": "mkdir $OUT; mkfifo $OUT/experiment.json; $RUN",
    "out with a folder for a table": "mkdir -p $OUT/clients.parquet $OUT/cells.parquet; $RUN",
    "out with a folder for the record": "mkdir -p $OUT/experiment.json; $RUN",
    "out with a folder for the config": "mkdir -p $OUT/config.yaml; touch $OUT/experiment.json; $RUN",
    "out with a folder for the lock": "mkdir -p $OUT/.lock; $RUN",
    "out with a file for checkpoints": "mkdir $OUT; touch $OUT/checkpoints $OUT/experiment.json; $RUN",
    "out with a file for the damaged": "$RUN > /dev/null; touch $OUT/damaged; echo x > $OUT/experiment.json; $RUN",
    "in use": "mkdir $OUT; touch $OUT/.lock; flock $OUT/.lock $RUN",
    "working directory gone": "mkdir $HERE/gone; cd $HERE/gone; rmdir $HERE/gone; $RUN",
    "working directory gone, out relative": "mkdir $HERE/gone; cd $HERE/gone; rmdir $HERE/gone; $RUN --out out",
    "config is a folder": "$MAIN run $HERE",
    "config is a pipe that ends": "cat study.yaml | $MAIN run /dev/stdin --out $OUT",
    "config is a device": "$MAIN run /dev/null --out $OUT",
    "config is not there": "$MAIN run nothing.yaml",
    "config is not readable": "$MAIN run /proc/self/mem",
    "report of nothing": "$MAIN report $HERE/nothing",
    "report of a file": "$MAIN report study.yaml",
    "report into a file": "$RUN > /dev/null; touch $HERE/f; $MAIN report $OUT --out $HERE/f",
    "report with standard output closed": "$RUN > /dev/null; $MAIN report $OUT >&-",
    "audit with standard output closed": "$MAIN audit study.yaml >&-",
    "audit with standard output full": "$MAIN audit study.yaml > /dev/full",
}
NOT_READ = ("config is a pipe", "report", "audit")  # end well without the study's numbers


def cases(_: Lab) -> Iterator[Case]:
    for name in SHELLS:
        yield Case(name, shell, (name,))


def shell(lab: Lab, scratch: Path, name: str) -> Iterator[Result]:
    """The command in its shell, and what the folder then holds."""
    run = f"{sys.executable} -c 'from fedjax_paradox.cli import main; main()'"
    script = scratch / "main"
    script.write_text(f'#!/bin/sh\nexec {run} "$@"\n')
    script.chmod(0o755)
    out, folder = scratch / "out", scratch / "study"
    study.write(folder)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
        **{"HERE": str(scratch), "OUT": str(out), "CACHE": str(scratch / "cache"), "WARM": str(lab.cache)},
        **{"FEDJAX_PARADOX_CACHE": str(scratch / "cache"), "MAIN": str(script)},
        "RUN": f"{script} run {folder}/study.yaml --out {out}",
    }
    yield Result(name, *_judged(lab, out, name, _ended(SHELLS[name], folder, environment)))


def _ended(text: str, folder: Path, environment: dict[str, str]) -> Ended:
    process = subprocess.Popen(
        ["/bin/sh", "-c", text],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=server.SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, errors = process.communicate()
        return Ended(-9, True, output, errors, None, 0)
    return Ended(process.returncode, False, output, errors, None, 0)


def _judged(lab: Lab, out: Path, name: str, ended: Ended) -> tuple[str, str]:
    if name.startswith(NOT_READ):
        return judged(ended, None)
    if ended.code == 0:
        found = server.call(lambda: (0, study.numbers(out)), cwd=lab.study)
        ended = ended._replace(value=found.value, errors=ended.errors + found.errors)
    return judged(ended, lab.truth["round 3"])
