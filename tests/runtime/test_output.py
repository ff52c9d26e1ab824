"""The owner of outputs: what it replaces, what it refuses, and that a result is whole wherever its writer is killed."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
from astropy.table import Table
from places import ROOT, TESTS

from hiergal.cli.study import owned_study
from hiergal.runtime import files, work
from hiergal.runtime import folder as folder_module
from hiergal.runtime.files import locked, resolved, write_whole
from hiergal.runtime.folder import owned_folder
from hiergal.runtime.identity import differences, digest_of
from hiergal.runtime.marks import foreign_files, mark_of
from hiergal.runtime.output import check_output, owned
from hiergal.runtime.work import settle, work_folder

RUN, OTHER = {"seed": 1, "model": "a"}, {"seed": 2, "model": "a"}


def write(path, run=RUN, *, content="sound", **options):
    """What a command does: a table with its mark, in one part; True if it was there already."""
    with owned(path, "demo", run=run, **options) as own:
        if own.finished:
            return True
        part = own.work / "part.txt"
        if not (own.resumed and part.exists()):
            part.write_text(content)
        table = Table({"content": [part.read_text()]}, meta={"HIERGAL": "demo", "HGRUN": own.digest})
        table.write(own.result, format="fits", overwrite=True)
        own.put()
    return False


def content(path):
    return str(Table.read(path)["content"][0])


def left(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def state_of(folder):
    """Names, kinds and contents of all that is in a folder."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


def test_a_finished_run_is_recognised_and_another_refused(tmp_path):
    out = tmp_path / "t.fits"
    assert not write(out) and left(tmp_path) == ["t.fits"]
    before = out.stat()
    assert write(out, content="other"), "the same run is finished"
    assert out.stat().st_mtime_ns == before.st_mtime_ns and content(out) == "sound"
    with pytest.raises(FileExistsError, match="a finished demo of another run.*--overwrite"):
        write(out, OTHER)
    assert left(tmp_path) == ["t.fits"]
    assert not write(out, OTHER, content="new", overwrite=True) and content(out) == "new"
    assert mark_of(out) == ("demo", digest_of(OTHER))


def foreign_file(folder):
    (folder / "t.fits").write_text("thesis")


def foreign_folder(folder):
    (folder / "t.fits").mkdir()
    (folder / "t.fits/chapter.tex").write_text("thesis")


def foreign_fits(folder):
    Table({"a": [1]}).write(folder / "t.fits")


def link_to_foreign(folder):
    (folder / "thesis").write_text("thesis")
    (folder / "t.fits").symlink_to(folder / "thesis")


def link_to_itself(folder):
    (folder / "t.fits").symlink_to(folder / "t.fits")


def foreign_work_folder(folder):
    (folder / ".t.fits.hiergal").mkdir()
    (folder / ".t.fits.hiergal/notes").write_text("mine")


def link_for_work_folder(folder):
    (folder / "elsewhere").mkdir()
    (folder / ".t.fits.hiergal").symlink_to(folder / "elsewhere")


def lock_that_is_a_link(folder):
    (folder / ".t.fits.hiergal").mkdir()
    (folder / "precious").write_text("mine")
    (folder / ".t.fits.hiergal/lock").symlink_to(folder / "precious")


def pipe(folder):
    os.mkfifo(folder / "t.fits")


FOREIGN = [
    foreign_file,
    foreign_folder,
    foreign_fits,
    link_to_foreign,
    link_to_itself,
    foreign_work_folder,
    link_for_work_folder,
    lock_that_is_a_link,
    pipe,
]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("foreign", FOREIGN)
def test_nothing_of_others_is_touched(foreign, overwrite, tmp_path):
    foreign(tmp_path)
    if foreign is not pipe:
        before = state_of(tmp_path)
    with pytest.raises(OSError, match="expected|symbolic"):
        write(tmp_path / "t.fits", overwrite=overwrite)
    if foreign is not pipe:
        assert state_of(tmp_path) == before
    else:
        assert left(tmp_path) == ["t.fits"]


def test_an_output_is_apart_from_its_inputs(tmp_path):
    (tmp_path / "in.zarr").mkdir()
    for out in (tmp_path / "in.zarr", tmp_path / "in.zarr/t.fits", tmp_path, tmp_path / "x/../in.zarr"):
        with pytest.raises(FileExistsError, match="apart from the inputs"):
            write(out, inputs=[tmp_path / "in.zarr"], overwrite=True)
    assert left(tmp_path / "in.zarr") == []


def test_links_are_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "t.fits").symlink_to("disk/real.fits")
    write(tmp_path / "t.fits")
    assert (tmp_path / "t.fits").is_symlink() and left(tmp_path / "disk") == ["real.fits"]
    assert write(tmp_path / "disk/real.fits"), "one output, by either name"


def test_an_unfinished_run_goes_on_or_is_refused(tmp_path):
    out = tmp_path / "t.fits"

    def stopped():
        with pytest.raises(KeyboardInterrupt), owned(out, "demo", run=RUN) as own:
            (own.work / "part.txt").write_text("begun")
            raise KeyboardInterrupt

    stopped()
    with pytest.raises(FileExistsError, match="unfinished run.*with other seed;.*--overwrite"):
        write(out, OTHER)
    assert not write(out, content="not asked") and content(out) == "begun" and left(tmp_path) == ["t.fits"]
    out.unlink()
    stopped()
    write(out, OTHER, content="new", overwrite=True)
    assert content(out) == "new" and left(tmp_path) == ["t.fits"]


def test_parts_without_an_identity_are_never_used(tmp_path):
    """As a run leaves them that is killed while it forgets another one."""
    out = tmp_path / "t.fits"
    with pytest.raises(KeyboardInterrupt), owned(out, "demo", run=RUN) as own:
        (own.work / "part.txt").write_text("of another run")
        raise KeyboardInterrupt
    (work_folder(resolved(out)) / "run.json").unlink()
    write(out, RUN)
    assert content(out) == "sound"


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="wrong"), owned(tmp_path / "t.fits", "demo", run=RUN):
        raise ValueError("wrong")
    with pytest.raises(FileNotFoundError, match="no input"), owned(tmp_path / "t.fits", "demo", run=RUN):
        raise FileNotFoundError("no input")
    with pytest.raises(OSError, match="full"), owned(tmp_path / "t.fits", "demo") as own:
        own.result.write_text("half")
        raise OSError("disk full")
    assert left(tmp_path) == []


def test_what_comes_to_the_place_in_the_meantime_stays(tmp_path):
    out = tmp_path / "t.fits"
    with pytest.raises(FileExistsError, match="the result is kept in"), owned(out, "demo", run=RUN) as own:
        own.result.write_text("result")
        out.write_text("of somebody else")
        own.put()
    assert (
        out.read_text() == "of somebody else" and (work_folder(out) / "result.fits").read_text() == "result"
    )


def folder_result(own, text):
    """A result that is a folder, as zarr makes them."""
    own.result.mkdir()
    about = {"attributes": {"hiergal_kind": own.kind, "hiergal_run": own.digest}, "node_type": "group"}
    (own.result / "zarr.json").write_text(json.dumps(about))
    (own.result / "a/c").mkdir(parents=True)
    (own.result / "a/zarr.json").write_text("{}")
    (own.result / "a/c/0").write_text(text)


@pytest.mark.parametrize("exchanged", [True, False])
def test_folders_are_replaced(tmp_path, monkeypatch, exchanged):
    if not exchanged:
        monkeypatch.setattr(work, "exchange", lambda *names: False)
    for run, text in ((RUN, "first"), (OTHER, "second")):
        with owned(tmp_path / "x.zarr", "demo", run=run, overwrite=True) as own:
            folder_result(own, text)
            own.put()
        assert (tmp_path / "x.zarr/a/c/0").read_text() == text and left(tmp_path) == ["x.zarr"]
    (tmp_path / "x.zarr/notes.tex").write_text("thesis")
    assert list(foreign_files(tmp_path / "x.zarr")) == ["notes.tex"]
    with (
        pytest.raises(FileExistsError, match="notes.tex"),
        owned(tmp_path / "x.zarr", "demo", run=RUN, overwrite=True),
    ):
        pass


KILLED = """
import os, signal, sys
from pathlib import Path
from hiergal.runtime import files, output, work
from test_output import folder_result, OTHER
if not {exchanged}:
    work.exchange = lambda *names: False
count = 0
def killed_at(name, module):
    real = getattr(module, name)
    def call(*arguments, **options):
        global count
        count += 1
        if count == {number}:
            os.kill(os.getpid(), signal.SIGKILL)
        done = real(*arguments, **options)
        return done
    setattr(module, name, call)
for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
    killed_at(name, os)
for name in ("exchange", "move_to_free_name", "remove", "write_whole"):
    killed_at(name, work)
with output.owned({out!r}, "demo", run=OTHER, overwrite=True) as own:
    if not own.finished:
        if own.result.exists():
            import shutil; shutil.rmtree(own.result)
        folder_result(own, "new")
        own.put()
print("done", count)
"""


@pytest.mark.parametrize("exchanged", [True, False])
@pytest.mark.parametrize("replaced", [True, False])
def test_killed_at_every_step_and_run_again(tmp_path, exchanged, replaced):
    """Each rename, removal and note is a place to die in: what is there is whole, old or new, and a run heals it."""
    said = in_a_process(f"kill_at_every_step({str(tmp_path)!r}, {exchanged}, {replaced})")
    assert int(said.split()[-1]) > 5


def in_a_process(call: str) -> str:
    """Call a function of this file in a process that may fork; this one has the threads of JAX."""
    paths = [str(Path(__file__).parent), str(TESTS), str(ROOT)]
    done = subprocess.run(
        [sys.executable, "-c", f"import test_output; test_output.{call}"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def kill_at_every_step(folder, exchanged, replaced):
    for number in range(1, 60):
        here = Path(folder) / str(number)
        here.mkdir()
        out = here / "x.zarr"
        if replaced:
            with owned(out, "demo", run=RUN) as own:
                folder_result(own, "old")
                own.put()
        options = {"exchanged": exchanged, "out": str(out)}
        done = _run_in_fork(KILLED.format(number=number, **options))
        settle(out)
        there = (out / "a/c/0").read_text() if out.exists() else None
        assert there in (("old", "new") if replaced else (None, "new")), f"step {number}: {there}"
        with owned(out, "demo", run=OTHER, overwrite=there != "new") as own:
            if not own.finished:
                files.remove(own.result)
                folder_result(own, "new")
                own.put()
        assert (out / "a/c/0").read_text() == "new" and left(here) == ["x.zarr"], f"step {number}"
        if done:
            print(number)
            return
    raise AssertionError("expected fewer steps")


def _run_in_fork(code):
    """Starting Python for each step would take minutes. True if it was not killed."""
    child = os.fork()
    if child == 0:
        try:
            exec(compile(code, "killed", "exec"), {"__name__": "killed"})
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFEXITED(status)


HOLD = """
import sys, time
from hiergal.runtime.output import owned
with owned(sys.argv[1], "demo", run={"seed": 1, "model": "a"}) as own:
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time(tmp_path):
    """The loser says who has it; after a kill the lock is free."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "t.fits"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match=f"got process {holder.pid} on .*wait until"):
            write(tmp_path / "t.fits")
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert not write(tmp_path / "t.fits") and left(tmp_path) == ["t.fits"]


def test_pairs_at_once(tmp_path):
    """Whoever loses says why, or finds the work done; the file is whole."""
    pairs = 20
    for said in in_a_process(f"race({str(tmp_path)!r}, {pairs})").splitlines():
        assert said in ("lost wrote", "there wrote")
    assert left(tmp_path) == sorted(f"{pair}.fits" for pair in range(pairs))
    assert all(content(path) == "sound" for path in tmp_path.iterdir())


def race(folder, pairs):
    """Run two forks at once on one output, several times; print what became of both, a line for each pair."""
    for pair in range(pairs):
        out, at, ends = Path(folder) / f"{pair}.fits", time.time() + 0.05, []
        for _ in range(2):
            read, write_end = os.pipe()
            if os.fork() == 0:
                try:
                    while time.time() < at:
                        pass
                    said = "there" if write(out) else "wrote"
                except BlockingIOError:
                    said = "lost"
                except BaseException as error:
                    said = repr(error)
                os.write(write_end, said.encode())
                os._exit(0)
            os.close(write_end)
            ends.append(read)
        print(*sorted(open(read).read() for read in ends))
        for _ in ends:
            os.wait()


def test_a_lock_that_was_removed_is_no_lock(tmp_path):
    with locked(tmp_path / "lock", "demo"):
        (tmp_path / "lock").unlink()
        with locked(tmp_path / "lock", "demo"):
            pass
    with pytest.raises(BlockingIOError, match="process"), locked(tmp_path / "lock", "demo"):
        with locked(tmp_path / "lock", "demo"):
            pass


def test_write_whole_uses_no_name_of_others(tmp_path):
    target = tmp_path / "m.json"
    (tmp_path / "m.json.partial").write_text("mine")
    left_over = tmp_path / f".m.json.{'0' * 12}.hiergal-new"
    left_over.write_text("of a writer that was killed")
    write_whole(target, b"new")
    assert (
        left(tmp_path) == ["m.json", "m.json.partial"] and (tmp_path / "m.json.partial").read_text() == "mine"
    )
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_differences_are_named():
    assert differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}, "d": 4}) == "b.c, d"
    assert differences({"a": 1}, {}) == "a"


def test_check_output(tmp_path):
    assert check_output(tmp_path / "t.fits") is None
    write(tmp_path / "t.fits")
    with pytest.raises(FileExistsError, match="finished demo"):
        check_output(tmp_path / "t.fits")
    assert check_output(tmp_path / "t.fits", overwrite=True).kind == "demo"


NAMES = ("model.txt", "checkpoints")


def train(folder, run=RUN, *, text="trained", stop=False, **options):
    with owned_folder(folder, "training", run=run, names=NAMES, **options) as own:
        if own.finished:
            return own.results
        (own.path / "checkpoints").mkdir(exist_ok=True)
        (own.path / "checkpoints/fingerprint.json").write_text("{}")
        if stop:
            raise KeyboardInterrupt
        write_whole(own.path / "model.txt", text.encode())
        own.done(loss=1.5)
    return own.results


def test_a_folder_of_a_run(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(run, stop=True)
    (run / "notes.md").write_text("mine")
    assert train(run) == {"loss": 1.5}
    assert train(run, text="again") == {"loss": 1.5} and (run / "model.txt").read_text() == "trained"
    with pytest.raises(FileExistsError, match="a finished training with other seed.*--overwrite"):
        train(run, OTHER)
    train(run, OTHER, text="other", overwrite=True)
    assert (run / "model.txt").read_text() == "other" and (run / "notes.md").read_text() == "mine"
    assert left(run) == ["checkpoints", "hiergal-training.json", "model.txt", "notes.md"]


@pytest.mark.parametrize("name", ["rename", "rmtree", "_write"])
def test_a_run_that_was_stopped_while_it_replaced_another_is_repeated(tmp_path, monkeypatch, name):
    """Half of what is replaced is not in the way, and goes."""
    train(tmp_path)
    (tmp_path / "checkpoints/3").mkdir()
    module = {"rename": os, "rmtree": shutil, "_write": folder_module}[name]

    def stop(*arguments):
        if name == "rmtree":
            (arguments[0] / "checkpoints/fingerprint.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, name, stop)
        train(tmp_path, OTHER, overwrite=True)
    train(tmp_path, OTHER, text="other", overwrite=True)
    assert left(tmp_path) == ["checkpoints", "hiergal-training.json", "model.txt"]
    assert left(tmp_path / "checkpoints") == ["fingerprint.json"]


def test_a_run_that_failed_before_it_wrote_anything_is_not_in_the_way(tmp_path):
    """As one with a wrong argument, which is given right the next time."""
    with (
        pytest.raises(ValueError, match="wrong"),
        owned_folder(tmp_path, "training", run=OTHER, names=NAMES),
    ):
        raise ValueError("wrong")
    assert train(tmp_path) == {"loss": 1.5}
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "other", stop=True)
    with pytest.raises(FileExistsError, match="an unfinished training with other seed"):
        train(tmp_path / "other", OTHER)


def test_parts_of_an_output_that_was_not_finished_go_with_its_folder(tmp_path):
    """As those of the survey of a quickstart."""

    def study(run, *, stop=False, **options):
        with owned_folder(tmp_path, "study", run=run, names=("t.fits",), **options) as own:
            with owned(own.path / "t.fits", "demo", run=run) as table:
                (table.work / "part.txt").write_text("part")
                if stop:
                    raise KeyboardInterrupt
                table.result.write_text(str(run))
                table.put()
            own.done()

    with pytest.raises(KeyboardInterrupt):
        study(RUN, stop=True)
    study(OTHER, overwrite=True)
    assert left(tmp_path) == ["hiergal-study.json", "t.fits"]


def test_a_study_owns_what_it_writes(tmp_path, capsys):
    """A script's own arguments are the run; paths among them count by what they hold, wherever it lies."""
    (tmp_path / "in.toml").write_text("a = 1")
    shutil.copy(tmp_path / "in.toml", tmp_path / "copy.toml")

    def study(**changes):
        given = {"recipe": tmp_path / "in.toml", "seed": 1, "out": tmp_path / "out", "overwrite": False}
        with owned_study(argparse.Namespace(**given | changes), "study", ("numbers.json",)) as own:
            if not own.finished:
                (own.path / "numbers.json").write_text(str(changes))
                own.done()

    study()
    study(recipe=tmp_path / "copy.toml")
    assert (
        tmp_path / "out/numbers.json"
    ).read_text() == "{}" and "of the same study" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="other seed.*--overwrite"):
        study(seed=2)
    study(seed=2, overwrite=True)
    with pytest.raises(FileNotFoundError, match="none.toml: expected"):
        study(recipe=tmp_path / "none.toml")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/numbers.json").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="nothing is touched"):
            study(out=tmp_path / "thesis", overwrite=overwrite)
    assert (tmp_path / "thesis/numbers.json").read_text() == "mine"


def test_what_a_link_leads_to_is_not_removed_unless_it_is_known(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoints").symlink_to(tmp_path / "disk")
    train(tmp_path / "run")
    (tmp_path / "disk/fingerprint.json").unlink()
    (tmp_path / "disk/thesis.tex").write_text("mine")
    train(tmp_path / "run", OTHER, overwrite=True)
    assert (tmp_path / "disk/thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("name", [*NAMES, "hiergal-training.json"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_somebody_else(tmp_path, name, overwrite):
    if name == "checkpoints":
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious.pt").write_text("mine")
    else:
        (tmp_path / name).write_text("mine")
    before = state_of(tmp_path)
    with pytest.raises(FileExistsError, match=f"without .*got {name}"):
        train(tmp_path, overwrite=overwrite)
    assert state_of(tmp_path) == before


def test_what_others_put_into_a_folder_of_ours_is_no_prey(tmp_path):
    train(tmp_path)
    (tmp_path / "checkpoints/precious.pt").write_text("mine")
    before = state_of(tmp_path)
    with pytest.raises(FileExistsError, match="precious.pt"):
        train(tmp_path, OTHER, overwrite=True)
    assert state_of(tmp_path) == before


def test_a_folder_has_one_owner_and_no_input_among_its_names(tmp_path):
    with (
        owned_folder(tmp_path, "training", run=RUN, names=NAMES),
        pytest.raises(BlockingIOError, match="process"),
        owned_folder(tmp_path, "training", run=RUN, names=NAMES),
    ):
        pass
    with pytest.raises(FileExistsError, match="apart from the inputs"):
        train(tmp_path, inputs=[tmp_path / "checkpoints/survey.zarr"])
