"""The page and the command that writes it: in a browser, without a network, whatever the data hold."""

import hashlib
import itertools
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import unicodedata
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from xml.parsers import expat

import pyarrow as pa
import pytest
import synthetic

from fedjax_paradox import cli
from fedjax_paradox.errors import InputError
from fedjax_paradox.report import files, page
from fedjax_paradox.storage import cells as stored
from fedjax_paradox.storage import results

CLAIMS = Path(__file__).parent.parent / "experiments" / "paper" / "claims.yaml"
EVIL = "</script><script>document.title='owned'</script><img src=x onerror=document.title='owned'>\"'&{{7*7}}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    synthetic.write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return synthetic.write_run(place, out, "grid.alpha=[0.1, 1.0, 10.0]", "grid.rule=null")


@pytest.fixture(scope="module")
def report(run, place, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    page.write([run], out, CLAIMS, place / "cache")
    return out


@pytest.fixture
def call(place, tmp_path, monkeypatch, capfd):
    """call(argument, ...) -> (exit code, standard output, standard error) of `fedjax-paradox report`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("FEDJAX_PARADOX_CACHE", str(place / "cache"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedjax-paradox", "report", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capfd.readouterr()

    return run


class Tags(HTMLParser):
    """Every element that was opened, with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def all(self, name):
        return [attributes for tag, attributes in self.found if tag == name]


class Words(HTMLParser):
    """The text between the tags."""

    def __init__(self, text):
        super().__init__()
        self.text = ""
        self.feed(text)

    def handle_data(self, data):
        self.text += f" {data}"


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


# The files


def test_the_page_stands_alone(report):
    text = (report / page.PAGE).read_text(encoding="utf-8")
    tags = Tags(text)
    links = [attributes[name] for _, attributes in tags.found for name in ("src", "href") if name in attributes]
    assert links
    assert all(link.startswith(("#", "data:image/svg+xml;base64,")) for link in links)
    assert not tags.all("link")
    assert "url(" not in text
    assert "@import" not in text


def test_the_page_can_be_read_without_seeing_it(report):
    tags = Tags((report / page.PAGE).read_text(encoding="utf-8"))
    assert all(len(image["alt"]) > 20 for image in tags.all("img"))
    assert len(tags.all("caption")) == len(tags.all("table")) > 5
    assert len(tags.all("figcaption")) == len(tags.all("figure")) == len(tags.all("img")) == 3
    assert all(head.get("scope") == "col" for head in tags.all("th"))
    levels = [int(tag[1]) for tag, _ in tags.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_the_order_of_the_page(report):
    text = (report / page.PAGE).read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)"', text) == ["answer", "rounds", "worst", "detail"]  # skew answers first
    assert text.index("<h1>") < text.index('id="gap-and-worst"') < text.index('<section id="rounds"')
    folded = re.findall(r'<details id="([\w-]+)"', text)
    assert folded == ["claims-why", "accuracy", "every", "audit", "run", "computed"]
    assert text.index('<section id="detail"') < text.index("<details")


def without_folds(markdown):
    """What a reader sees before opening anything."""
    while (shorter := re.sub(r"<details>(?:(?!<details>).)*?</details>", "", markdown, flags=re.S)) != markdown:
        markdown = shorter
    assert "details>" not in markdown
    return markdown


def test_markdown_says_what_the_page_says(report):
    """Word for word in the same order, but for configurations and for the figures' alternative texts."""
    html, markdown = ((report / name).read_text(encoding="utf-8") for name in (page.PAGE, page.TEXT))
    on_page = Words(re.sub(r"<(style|script|title|pre)>.*?</\1>", "", html, flags=re.S)).text
    markup = r"!\[.*?(?<!\\)\]\(figures/.*?\)|</?(?:details|summary)>|^\|[:|-]+\|$"
    in_markdown = re.sub(markup, "", markdown, flags=re.M).replace("\\", "")
    assert re.findall(r"\w+", in_markdown) == re.findall(r"\w+", on_page)


@pytest.fixture(scope="module")
def paper(place, tmp_path_factory):
    """The report of the published experiments' runs, the largest that is committed."""
    out = tmp_path_factory.mktemp("paper")
    runs = sorted((CLAIMS.parent / "results" / "runs").iterdir())
    page.write(runs, out, CLAIMS, place / "cache", "last")
    return out


def test_the_markdown_is_short_before_anything_is_opened(paper):
    assert len(without_folds((paper / page.TEXT).read_text(encoding="utf-8")).encode()) <= 30_000


def test_every_file_is_there(report):
    names = set(contents(report))
    figures = ("gap-and-worst", "learning-curves", "worst-clients")
    protocols = ("train-rows", "label-filtered", "label-matched", "holdout", "global")
    assert names == {
        "report.html",
        "report.md",
        ".report.json",
        *(f"figures/{name}.{kind}" for name in figures for kind in ("svg", "pdf")),
        *(f"tables/accuracy-{name}.tex" for name in protocols),
        "tables/verdicts.tex",
        "tables/claims.tex",
        "tables/audit.tex",
    }
    markdown = (report / page.TEXT).read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((figures/.*?)\)", markdown)) == {name for name in names if name.endswith(".svg")}


def test_the_same_input_gives_the_same_bytes(run, place, report, tmp_path):
    page.write([run], tmp_path, CLAIMS, place / "cache")
    assert contents(tmp_path) == contents(report)


# Data that would be markup


@pytest.fixture(scope="module")
def hostile(place, run, tmp_path_factory):
    folder = shutil.copytree(run, tmp_path_factory.mktemp("hostile") / "r<b>u")
    (folder / "cells.parquet").unlink()  # as a version wrote it that sealed nothing
    text = (folder / "config.yaml").read_text(encoding="utf-8").partition("\n")[2]
    plain = EVIL.replace("/", "")  # the name of a study is a folder's
    names = {"name: made-up": f"name: {json.dumps(plain)}", "  name: news": f"  name: {json.dumps(EVIL)}"}
    for before, after in names.items():
        assert before in text
        text = text.replace(before, after, 1)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    record = {**synthetic.RECORD, "platform": EVIL, "packages": {EVIL: EVIL}, "devices": [EVIL]}
    (folder / "experiment.json").write_text(json.dumps(record), encoding="utf-8")
    table = results.read(folder)
    corpus = table.schema.get_field_index("corpus")
    results.write(folder, [table.set_column(corpus, "corpus", pa.array([EVIL] * table.num_rows))])
    out = tmp_path_factory.mktemp("hostile-report")
    page.write([folder, folder / "no<i>run"], out, None, place / "cache")
    return out


def test_data_are_text_on_the_page(hostile):
    text = (hostile / page.PAGE).read_text(encoding="utf-8")
    tags = Tags(text)
    assert len(tags.all("script")) == 1
    assert not [image for image in tags.all("img") if "onerror" in image]
    assert not tags.all("i") + tags.all("b")
    assert "&lt;/script&gt;" in text
    assert "{{7*7}}" in text
    assert "no&lt;i&gt;run" in text  # the folder that was left out
    assert "</script>" not in (hostile / page.TEXT).read_text(encoding="utf-8").replace(r"\</script\>", "")


# In a browser


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """browse(file, script) -> the DOM after the page's own scripts and `script`, and what the console said."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    switches = ["no-first-run", "disable-background-networking", "disable-component-update", "disable-sync"]
    switches += ["headless", "no-sandbox", "disable-gpu", "disable-quic", "dump-dom", "enable-logging=stderr", "v=0"]

    def open_(file, script="", width=1200):
        folder = tmp_path_factory.mktemp("browser")
        watch = "<script>window.onerror = m => document.body.setAttribute('data-error', m)</script>"
        text = file.read_text(encoding="utf-8").replace("<body>", f"<body>{watch}")
        text = text.replace("</body>", f"<script>{script}</script></body>")
        (folder / "page.html").write_text(text, encoding="utf-8")
        command = [chromium, *(f"--{switch}" for switch in switches), f"--user-data-dir={folder / 'user'}"]
        command += [f"--window-size={width},900", (folder / "page.html").as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        assert "data-error" not in done.stdout.replace("'data-error'", "")
        assert "CONSOLE" not in done.stderr, done.stderr
        return done.stdout

    return open_


@pytest.mark.chromium
def test_the_figures_are_drawn(browse, report):
    script = "const n = [...document.images].filter(i => i.complete && i.naturalWidth > 300).length;"
    script = f"addEventListener('load', () => {{ {script} document.title = 'drawn ' + n; }});"
    assert "<title>drawn 3</title>" in browse(report / page.PAGE, script)


SORT = """
const table = document.getElementById("accuracy-label-matched");
const column = name => [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent === name);
const read = name => [...table.tBodies[0].rows].map(row => row.cells[column(name)].textContent);
const told = {};
for (const name of ["model", "α", "gap"]) {
  const head = table.tHead.rows[0].cells[column(name)];
  head.querySelector("button").click();
  told[name] = [read(name), head.getAttribute("aria-sort")];
  head.querySelector("button").click();
  told[name + " back"] = [read(name), head.getAttribute("aria-sort")];
}
told.marked = table.querySelectorAll("[aria-sort]").length;
document.title = JSON.stringify(told);
"""


@pytest.mark.chromium
def test_tables_sort(browse, report):
    dom = browse(report / page.PAGE, SORT)
    told = json.loads(re.search("<title>(.*?)</title>", dom)[1])
    for name in ("model", "α", "gap"):
        values, direction = told[name]
        keys = values if name == "model" else [float(value.split(" ")[0]) for value in values]
        assert keys == sorted(keys)
        assert len(set(keys)) > 1
        assert direction == "ascending"
        values, direction = told[f"{name} back"]
        keys = values if name == "model" else [float(value.split(" ")[0]) for value in values]
        assert keys == sorted(keys, reverse=True)
        assert direction == "descending"
    assert [float(value) for value in told["α"][0]] == [0.1, 0.1, 1.0, 1.0, 10.0, 10.0]  # as numbers, not as text
    assert told["marked"] == 1


@pytest.mark.chromium
def test_the_page_fits_a_phone(browse, report):
    width, needed, *_ = framed(browse, report, 390)
    assert 370 <= width <= 390
    assert needed <= width


def framed(browse, report, width):
    """(width, width needed, bottom of the verdicts' figure or 0, height) of a page in a window of so many pixels.

    A frame, since a headless window is not made narrower than 500 pixels.
    """
    script = """
const frame = document.createElement("iframe");
frame.style.width = "%dpx";
frame.srcdoc = document.documentElement.outerHTML.replace(/<script>[^]*?<\\/script>/g, "");
frame.onload = () => {
  const inner = frame.contentDocument, root = inner.documentElement;
  const figure = inner.getElementById("forest"), image = figure && figure.querySelector("img");
  const bottom = image ? Math.ceil(image.getBoundingClientRect().bottom) : 0;
  document.title = ["framed", root.clientWidth, root.scrollWidth, bottom, root.scrollHeight].join(" ");
};
document.body.append(frame);
""".replace("%dpx", f"{width}px")
    source = (report / page.PAGE).read_text(encoding="utf-8")
    free = report.parent / "unframed.html"  # the policy of the page forbids frames, as it should
    free.write_text(re.sub("<meta http-equiv.*?>", "", source), encoding="utf-8")
    return map(int, re.search(r"<title>framed ([\d ]+)</title>", browse(free, script))[1].split())


@pytest.mark.chromium
@pytest.mark.parametrize(("width", "screen", "before"), [(390, 844, 29_300), (1280, 800, 21_300)])
def test_two_screens_hold_the_answer_and_the_page_is_short(browse, paper, width, screen, before):
    """The figure of the verdicts, and a third of what the page was before its details were folded."""
    *_, bottom, height = framed(browse, paper, width)
    assert 0 < bottom <= 2 * screen
    assert height <= before / 3


@pytest.mark.chromium
def test_printing_opens_what_is_folded(browse, report):
    """By the page's own rule, put to use on the screen: every table of the details is drawn."""
    text = (report / page.PAGE).read_text(encoding="utf-8")
    assert text.count("@media print") == 1
    printed = report.parent / "printed.html"
    printed.write_text(text.replace("@media print", "@media all"), encoding="utf-8")
    script = """
const tables = [...document.querySelectorAll("details table")];
const shown = tables.filter(table => table.checkVisibility());
const sticky = [...document.querySelectorAll("*")].filter(each => getComputedStyle(each).position === "sticky");
const cut = [...document.querySelectorAll(".wide")].filter(each => getComputedStyle(each).overflowX !== "visible");
document.title = ["print", shown.length, sticky.length, cut.length].join(" ");
"""
    tables = len(Tags(text[text.index("<details") :]).all("table"))
    assert f"<title>print {tables} 0 0</title>" in browse(printed, script)


@pytest.mark.chromium
def test_data_do_not_act(browse, hostile):
    dom = browse(hostile / page.PAGE)
    assert "<title>owned" not in dom


# The command


def test_the_command_writes_beside_the_run(call, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "copy")
    before = contents(folder)
    code, said, _ = call(folder)
    assert code == 0
    assert said.splitlines() == [f"Report: {folder / 'report' / 'report.html'}"]
    after = contents(folder)
    assert {name: data for name, data in after.items() if not name.startswith("report/")} == before
    assert after["report/report.html"]


def test_mistakes_exit_with_2(call, run, tmp_path):
    """Cheapest first: only the last one draws figures before it can know."""
    (tmp_path / "file").write_text("")
    (tmp_path / "claims.yaml").write_text("- id: 3\n")
    mistakes = {
        (tmp_path / "nowhere",): "no folder with results",
        (run, tmp_path): "--out",
        (run, "--claims", tmp_path / "claims.yaml"): "claims",
        (run, "--claims", tmp_path / "none.yaml"): "cannot read the claims",
        (run, "--rounds", "best"): "rounds are chosen by",
        (run, "--rounds", "round 9"): "has no 'round 9'",
        (run, "--out", tmp_path / "file"): "cannot be written",
    }
    for arguments, told in mistakes.items():
        code, _, complaint = call(*arguments)
        assert code == 2, arguments
        assert complaint.startswith("error: ")
        assert told in complaint
    assert not (run / "report").exists()


# Names that would act, in folders of this version


HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J\u202egnp\u2066[/x]{{7*7}}{% raw %}<img src=x onerror=alert(1)>|`$x$`\\input{/etc/passwd}"
    "](javascript:alert(1)) https://evil.example www.evil.example ../../etc"
)


@pytest.fixture(scope="module")
def named(place, tmp_path_factory):
    """The report of a folder whose every name is hostile, and longer than any line."""
    folder = tmp_path_factory.mktemp("named") / "run"
    fixed = ("grid.model=null", "grid.alpha=null", "grid.rule=null", "grid.partition_seed=[1, 2]", "rounds=2")
    synthetic.write_run(place, folder, *fixed, earlier=True)
    table = results.read(folder)
    long = HOSTILE + "x" * 5000
    hostile = {"corpus": long, "rule": HOSTILE, "model": f"[{HOSTILE}"}
    table = results.copied(table, hostile)
    protocols = [f"{HOSTILE}{name}" if name == "global" else name for name in table["protocol"].to_pylist()]
    place_ = table.schema.get_field_index("protocol")
    results.write(folder, [table.set_column(place_, "protocol", pa.array(protocols, pa.string()))])
    record = {**synthetic.RECORD, "platform": HOSTILE, "hash": long}
    synthetic.write_record(folder, record, earlier=True)
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    name = "".join(letter for letter in HOSTILE if letter.isprintable()).replace("/", "")  # a config has no other
    synthetic.write_config(folder, text.replace("name: made-up", f"name: {json.dumps(name)}", 1), earlier=True)
    out = tmp_path_factory.mktemp("named-report") / "out"
    content = page.write([folder, folder / HOSTILE[:40].replace("/", "")], out, None, place / "cache")
    return out, content


def acting(text):
    """Characters that do something in a terminal or turn the text around."""
    return {letter for letter in text if unicodedata.category(letter)[0] == "C"} - {"\n"}


def test_hostile_names_do_nothing_in_any_file(named):
    out, content = named
    files = contents(out)
    assert {name for name in files if not re.fullmatch(r"(figures|tables)/[A-Za-z0-9-]+\.(svg|pdf|tex)", name)} == {
        "report.html",
        "report.md",
        ".report.json",
    }
    for name, data in files.items():
        if not name.endswith(".pdf"):
            assert not acting(data.decode()), name
    assert not acting("".join([*content.left_out, *content.no_audit]))
    for name in files:
        if name.endswith(".svg"):
            expat.ParserCreate().Parse(files[name], True)  # raises where it is not well-formed
    assert max(len(Path(name).name) for name in files) < 90


def test_hostile_names_are_text_on_the_page_and_in_markdown(named):
    out, _ = named
    text = (out / page.PAGE).read_text(encoding="utf-8")
    tags = Tags(text)
    assert len(tags.all("script")) == 1
    assert not [image for image in tags.all("img") if "onerror" in image]
    assert "{{7*7}}{% raw %}" in text
    markdown = (out / page.TEXT).read_text(encoding="utf-8")
    without_figures = re.sub(r"\]\(figures/[a-z0-9-]+\.svg\)|</?(?:details|summary)>", "", markdown)
    assert not re.search(r"(?<!\\)\]\(", without_figures)
    assert not re.search(r"(?<!\\)[<`$]", without_figures)
    assert "https://" not in markdown
    assert "www.evil" not in markdown


def test_hostile_names_are_text_in_latex(named):
    out, _ = named
    for name in (out / "tables").iterdir():
        text = name.read_text(encoding="utf-8")
        assert text.isascii()
        assert r"\input" not in text
        assert not re.search(r"\\\\\n[\[*]", text)  # what a line break would take for its own argument


# Where a report is written


@contextmanager
def full_disk(size):
    """No file can grow beyond so many bytes. No bytecode is kept, or it would be cut short for whoever imports next."""
    before, keeps = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = keeps


@pytest.mark.parametrize("size", [1000, 20_000, 60_000])
def test_a_full_disk_leaves_the_report_before(report, tmp_path, size):
    out = shutil.copytree(report, tmp_path / "out")
    whole = contents(out)
    new = {name: data + b"\nand more" for name, data in whole.items() if name != ".report.json"}
    with full_disk(size), pytest.raises(InputError, match=r"cannot be written .*make room") as error:
        files.put(out, new)
    assert str(out) in str(error.value)
    assert contents(out) == whole
    files.put(out, new)
    assert contents(out)["report.html"] == new["report.html"]


def test_a_folder_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        files.put(tmp_path / "file" / "report", {"report.html": b""})


def test_what_is_no_longer_made_goes_and_nothing_else(tmp_path):
    figure, table, edited = "figures/rules.svg", "tables/claims.tex", "tables/audit.tex"
    files.put(tmp_path, dict.fromkeys([figure, table, edited, "report.html"], b"old"))
    (tmp_path / "figures" / "mine.svg").write_bytes(b"mine")
    (tmp_path / edited).write_bytes(b"with a remark")
    files.put(tmp_path, {table: b"new", "report.html": b"new"})
    assert contents(tmp_path).keys() == {"figures/mine.svg", table, edited, "report.html", ".report.json"}


def test_a_list_that_names_other_files_removes_none(tmp_path):
    (tmp_path / "precious.svg").write_bytes(b"mine")
    out = tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    digest = hashlib.sha256(b"mine").hexdigest()
    for listed in ({"../precious.svg": digest, "figures/../../precious.svg": digest}, [1], "x"):
        (out / ".report.json").write_text(json.dumps(listed))
        files.put(out, {"report.html": b"new"})
        assert (tmp_path / "precious.svg").read_bytes() == b"mine"


@pytest.mark.parametrize("linked", ["out", "out/figures"])
def test_a_report_is_not_written_through_links(tmp_path, linked):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / linked).parent.mkdir(exist_ok=True)
    (tmp_path / linked).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link"):
        files.put(tmp_path / "out", {"figures/rules.svg": b"new", "report.html": b"new"})
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_file_that_is_a_link_is_replaced_not_followed(tmp_path):
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "out").mkdir()
    for name in ("report.html", ".report.html.tmp"):
        (tmp_path / "out" / name).symlink_to(tmp_path / "precious")
    files.put(tmp_path / "out", {"report.html": b"new"})
    assert (tmp_path / "precious").read_bytes() == b"mine"
    assert (tmp_path / "out" / "report.html").read_bytes() == b"new"


# What a stranger's folder names


@pytest.mark.parametrize("kind", ["pipe", "device", "secret", "csv"])
def test_a_corpus_is_read_from_regular_files_and_never_quoted(place, tmp_path, kind):
    shutil.copytree(place, tmp_path / "corpus")
    fixed = ("grid.model=null", "grid.alpha=null", "grid.rule=null", "grid.partition_seed=null", "rounds=2")
    folder = synthetic.write_run(tmp_path / "corpus", tmp_path / "run", *fixed)
    train = tmp_path / "corpus" / "train.csv"
    train.unlink()
    if kind == "pipe":
        os.mkfifo(train)
    elif kind == "device":
        train.symlink_to("/dev/zero")
    elif kind == "secret":
        (tmp_path / "passwd").write_text("hunter2:x:0\n")
        train.symlink_to(tmp_path / "passwd")
    else:
        train.write_text("text,label\nhunter2,World\nhunter2,hunter2\n")
    out = tmp_path / "report"
    content = page.write([folder], out, None, tmp_path / "cache")
    assert len(content.no_audit) == 1
    assert "cannot be read" in content.no_audit[0] or "has changed" in content.no_audit[0]
    assert not [name for name, data in contents(out).items() if b"hunter2" in data]


def test_a_report_runs_nothing_that_a_folder_names(place, tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'sprung')!r}).touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    fixed = ("grid.model=null", "grid.alpha=null", "grid.rule=null", "grid.partition_seed=null", "rounds=2")
    folder = synthetic.write_run(place, tmp_path / "run", *fixed)
    names = {
        '"kind":"dirichlet"': '"kind":"trap:blocks"',
        '"rule":"fedavg"': '"rule":"trap:rule"',
        '"objective":"cross_entropy"': '"objective":"trap:loss"',
        '"train_rows","label_filtered"': '"train_rows","trap:protocol","label_filtered"',
    }
    (entry,) = stored.read(folder).values()
    for before, after in names.items():
        assert before in entry.settings
        entry = entry._replace(settings=entry.settings.replace(before, after))
    stored.write(folder, [entry])
    results.write(folder, [results.copied(results.read(folder), {"rule": "trap:rule"})])
    content = page.write([folder], tmp_path / "report", None, place / "cache")
    assert not (tmp_path / "sprung").exists()
    assert content.audit is None
    told = " ".join(content.no_audit)
    assert "partition.kind trap:blocks is the folder's own code and was not run; no audit of single." in told
    assert "rule trap:rule is the folder's own code and was not run" in told
    assert content.accuracy
