"""Inputs that travel once: which they are, how they get into the sandboxes, and what becomes of the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchlib import Memory
from batchlib.application import Application, ArrayElement
from batchlib.backends import cache, cache_text
from batchlib.backends.slurm import SlurmBackend
from batchlib.config import resource_settings
from batchlib.errors import BatchlibError, DataStagingError, InvalidValue
from batchlib.run import State
from batchlib.transport.archive import Entry, Known, pack
from batchlib.transport.base import Carrier, Pipe
from batchlib.transport.shell import Completed

MIB = 1 << 20


class Traffic:
    """Counts the bytes that a carrier is given."""

    def __init__(self, carrier: Carrier, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        opened = carrier.open

        def open_counted(command: str, window: int | None = None) -> Pipe:
            pipe = opened(command, window)
            write = pipe.write

            def counted(data: bytes) -> None:
                self.bytes += len(data)
                write(data)

            monkeypatch.setattr(pipe, "write", counted)
            return pipe

        monkeypatch.setattr(carrier, "open", open_counted)


Make = Callable[..., SlurmBackend]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """The spool directory of the test."""
    return tmp_path / "spool"


@pytest.fixture
def make(tmp_path: Path, spool: Path) -> Iterator[Make]:
    """Make backends of which everything is real but the batch system: it takes each job, and never starts one."""
    made: list[SlurmBackend] = []
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho Submitted batch job $$\n")
    sbatch.chmod(0o755)

    def backend(**keys: object) -> SlurmBackend:
        made.append(SlurmBackend("x", **{"spooldir": str(spool), "sbatch": str(sbatch), "cache_links": True, **keys}))
        _ = made[-1].spool
        return made[-1]

    yield backend
    for one in made:
        one.close()


def jobs(count: int, *inputs: Path, **keys: object) -> list[Application]:
    return [Application(["true"], inputs={str(path): path.name for path in inputs}, **keys) for _ in range(count)]  # type: ignore[arg-type]


def submit(backend: SlurmBackend, apps: Sequence[Application]) -> None:
    answers = backend.submit_jobs(apps)
    assert list(answers.values()) == [None] * len(apps)


def box(spool: Path, app: Application) -> Path:
    return spool / (app.execution.token or "")


def objects(spool: Path) -> dict[str, Path]:
    """What is in the cache: by content, as the digest of it says."""
    found = {}
    for path in (spool / "cache").rglob("*"):
        if path.is_file():
            found[hashlib.sha256(path.read_bytes()).hexdigest()] = path
    return found


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(path: Path, size: int, *, age: float = 1000) -> Path:
    """Write a file with a content of its own, some time ago."""
    path.write_bytes(os.urandom(64) * (size // 64) + bytes(size % 64))
    os.utime(path, (time.time() - age, int(time.time() - age)))
    return path


# --- which ones ---------------------------------------------------------------------------------------------------


@given(st.sampled_from([0, 1, 65535, 65536, MIB - 1, MIB]), st.integers(1, 3))
def test_what_is_shared_or_large_travels_once(tmp_path_factory: pytest.TempPathFactory, size: int, users: int) -> None:
    path = tmp_path_factory.mktemp("choice") / "file"
    with path.open("wb") as file:
        file.truncate(size)
    items = cache.choose([*jobs(users, path), *jobs(2)])
    assert bool(items) == (size >= MIB or (size >= 65536 and users > 1))
    for item in items.values():
        assert item.wanted.sha256 == sha256(path)
        assert item.wanted.mode == 0o444


def test_files_in_directories_and_standard_input_travel_once(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    large, small, given = write(tree / "deep/large", MIB), write(tree / "small", 1000), write(tmp_path / "in", 70000)
    apps = jobs(2, tree, stdin=given)
    items = cache.choose(apps)
    assert {path for path, _ in items} == {str(large), str(given)}
    assert all(item.is_input_of([apps[0]]) and not item.is_input_of(jobs(1, small)) for item in items.values())


def test_equal_contents_are_one_object_unless_one_is_a_program(tmp_path: Path) -> None:
    first = write(tmp_path / "first", MIB)
    second, program = tmp_path / "second", tmp_path / "program"
    shutil.copy(first, second)
    shutil.copy(first, program)
    program.chmod(0o755)
    items = cache.choose(jobs(1, first, second, program))
    assert len(items) == 3
    assert {item.wanted.number: item.wanted.mode for item in items.values()} == {0: 0o444, 1: 0o555}


def test_what_can_not_be_read_is_left_for_others_to_complain_of(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert cache.choose(jobs(2, tmp_path / "absent", tmp_path / "pipe")) == {}


def test_a_file_is_read_once_for_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_SETTLED", -(10**18))
    path = write(tmp_path / "file", MIB)
    before = path.stat()
    first = cache.digest(path, before)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", None)
        assert cache.digest(path, path.stat()) == first
    path.write_bytes(b"x" * MIB)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.digest(path, path.stat()) == sha256(path) != first


def test_a_file_that_was_just_written_is_not_trusted_to_stay_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "file", MIB)
    cache.digest(path, path.stat())
    assert not any(str(path) in key for key in cache._digests)


def test_a_file_is_sent_only_if_it_is_what_it_was(tmp_path: Path) -> None:
    path = write(tmp_path / "file", 3 * MIB)
    known = Known(path, sha256(path), path.stat().st_size, 7)
    assert len(b"".join(pack([Entry("x", known, 0o444)]))) == 512 + 3 * MIB + 1024
    for content in (b"", path.read_bytes() + b"more", path.read_bytes()[:-1] + b"\0"):
        path.write_bytes(content)
        with pytest.raises(DataStagingError, match=r"file changed while it was being sent"):
            b"".join(pack([Entry("x", known)]))
    path.unlink()
    with pytest.raises(DataStagingError, match="cannot read the input"):
        b"".join(pack([Entry("x", known)]))


@pytest.mark.parametrize("text", ["0", "off", " Off ", "no", "0 B"])
def test_the_cache_can_be_switched_off(text: str) -> None:
    assert not resource_settings("x", {"type": "slurm", "cache_quota": text}).cache_quota


def test_settings() -> None:
    settings = resource_settings("x", {"type": "slurm"})
    assert (settings.cache_quota, settings.cache_links) == (Memory("10 GB"), None)
    settings = resource_settings("x", {"type": "slurm", "cache_quota": "2 TB", "cache_links": "no"})
    assert (settings.cache_quota, settings.cache_links) == (Memory("2 TB"), False)
    with pytest.raises(InvalidValue, match="cache_quota"):
        resource_settings("x", {"type": "slurm", "cache_quota": "10"})


DIGEST = "0123456789abcdef" * 4


@given(st.text(max_size=300))
@example("claim 0 x\nfacts .incoming/b/0 y")
@example("claim\nfacts\nclaim 0\nfacts 0")
def test_answers_are_read_whatever_they_are(text: str) -> None:
    wanted = cache_text.Wanted(0, DIGEST, 5, 7, 0o444)
    claims = cache_text.parse_claim(Completed(0, text.encode(), b""), [wanted])
    assert claims.present == frozenset()


def test_a_claim_counts_when_the_object_looks_like_its_name() -> None:
    wanted = [cache_text.Wanted(number, DIGEST, 5, 7, 0o444) for number in range(3)]
    name = f"{DIGEST[2:]}.5.9.444"
    text = f"links\nclaim 0 {name}\nclaim 2 {name}\nfacts .incoming/b/0 5.9.444\nfacts .incoming/b/2 5.9.644\n"
    claims = cache_text.parse_claim(Completed(0, text.encode(), b""), wanted)
    assert claims == cache_text.Claims(frozenset({0}), (f"01/{name}",), links=True, root=False)


# --- there and back -----------------------------------------------------------------------------------------------


def test_a_thousand_jobs_share_what_travels_once(
    make: Make, spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common, own = write(tmp_path / "common", 8 * MIB), write(tmp_path / "own", 1000)
    backend = make()
    traffic = Traffic(backend.transport.carrier, monkeypatch)
    apps = jobs(1000, common, own)
    before = backend.transport.round_trips
    submit(backend, apps)
    assert backend.transport.round_trips == before + 2
    assert 8 * MIB < traffic.bytes < 8 * MIB + 1000 * 16_000
    kept = objects(spool)[sha256(common)]
    assert kept.stat().st_nlink == 1001
    assert all((box(spool, app) / "common").samefile(kept) for app in apps)
    assert (box(spool, apps[0]) / "own").read_bytes() == own.read_bytes()
    assert list((spool / ".incoming").iterdir()) == []
    # tomorrow, somebody else
    again = make()
    traffic = Traffic(again.transport.carrier, monkeypatch)
    submit(again, jobs(10, common, own))
    assert traffic.bytes < 10 * 16_000
    assert kept.stat().st_nlink == 1011


def test_a_batch_with_small_inputs_costs_what_it_cost(make: Make, spool: Path, tmp_path: Path) -> None:
    small, single = write(tmp_path / "small", 1000), write(tmp_path / "single", 100_000)
    backend = make()
    before = backend.transport.round_trips
    submit(backend, [*jobs(3, small), *jobs(1, single)])
    assert backend.transport.round_trips == before + 1
    assert not (spool / "cache").exists()
    off = make(cache_quota="off")
    before = off.transport.round_trips
    apps = jobs(2, write(tmp_path / "large", MIB))
    submit(off, apps)
    assert off.transport.round_trips == before + 1
    assert not (spool / "cache").exists()
    assert (box(spool, apps[1]) / "large").stat().st_nlink == 1


def test_what_jobs_get(make: Make, spool: Path, tmp_path: Path) -> None:
    data, program = write(tmp_path / "data", MIB), write(tmp_path / "program", MIB)
    program.chmod(0o700)
    apps = [
        Application(["./run"], inputs={str(program): "run", str(data): "deep/er/data"}, stdin=data) for _ in range(2)
    ]
    # a command need not be executable here
    apps.append(Application(["./data"], inputs=[data]))
    submit(make(), apps)
    for app in apps[:2]:
        inside = box(spool, app)
        for name, mode, local in (
            ("run", 0o555, program),
            ("deep/er/data", 0o444, data),
            (".batchlib/stdin", 0o440, data),
        ):
            info = (inside / name).stat()
            assert (stat.S_IMODE(info.st_mode), int(info.st_mtime)) == (mode, int(local.stat().st_mtime))
            assert sha256(inside / name) == sha256(local)
    assert stat.S_IMODE((box(spool, apps[2]) / "data").stat().st_mode) == 0o555
    for directory in ("cache", "cache/sha256", ".incoming"):
        assert stat.S_IMODE((spool / directory).stat().st_mode) == 0o700


def test_elements_of_an_array_share(make: Make, spool: Path, tmp_path: Path) -> None:
    common = write(tmp_path / "common", MIB)
    apps = [Application(["true"], inputs=[common], array=ArrayElement("a", index)) for index in (1, 2, 5)]
    submit(make(), apps)
    assert len({(app.execution.token or "").partition("/")[0] for app in apps}) == 1
    assert objects(spool)[sha256(common)].stat().st_nlink == 4
    assert [sha256(box(spool, app) / "common") for app in apps] == [sha256(common)] * 3


@pytest.mark.parametrize("way", ["links", "copies", "no links possible", "no names left", "off"])
def test_odd_names_arrive_whatever_the_way(
    make: Make, spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    tree = tmp_path / "tree"
    (tree / "it's $(here)").mkdir(parents=True)
    names = ["-x", "new\nline", "ünï ☃", "it's $(here)/`id`", "a" * 200, os.fsdecode(b"caf\xe9")]
    for name in names:
        write(tree / name, MIB)
    keys: dict[str, object] = {
        "copies": {"cache_links": False},
        "no links possible": {"setup": "ln() { return 1; }"},
        "no names left": {"setup": full_tar(tmp_path)},
        "off": {"cache_quota": "off"},
    }.get(way, {})
    backend = make(**keys)
    for _ in range(2):
        apps = jobs(3, tree)
        submit(backend, apps)
        for app in apps:
            for name in names:
                assert sha256(box(spool, app) / "tree" / name) == sha256(tree / name)
        links = (box(spool, apps[0]) / "tree/-x").stat().st_nlink
        assert (links > 1) == (way in ("links", "no names left"))
        assert len(objects(spool)) == (0 if way == "off" else len(names))
    if way != "off":
        assert list((spool / ".incoming").iterdir()) == []


def full_tar(directory: Path) -> str:
    """Make the setup of a machine whose tar can't make links, as when a file has as many as it may."""
    script = directory / "bin/tar"
    script.parent.mkdir()
    script.write_text(
        "#!/bin/sh\n"
        'case $1 in -x*) ;; *) exec /bin/tar "$@" ;; esac\n'
        f'cat > {directory}/archive; "{sys.executable}" - <<"."\n'
        "import sys, tarfile\n"
        f"archive = tarfile.open('{directory}/archive')\n"
        "if any(member.islnk() for member in archive):\n"
        "    sys.exit('tar: x: Cannot hard link to y: Too many links')\n"
        f'.\n[ $? = 0 ] && exec /bin/tar "$@" < {directory}/archive\n'
    )
    script.chmod(0o755)
    return f"PATH={script.parent}:$PATH"


def test_where_a_file_can_not_have_more_names_copies_get_the_others(tmp_path: Path) -> None:
    (tmp_path / "0").write_bytes(b"content")
    (tmp_path / "0").chmod(0o444)
    # a file system on which a file has at most three names
    limit = 'ln() { [ "$(stat -c %h "$3")" -lt 3 ] && command ln "$@"; }\n'
    puts = "".join(cache_text.place(0, "0", 0o644, f"job {number}") for number in range(10))
    done = subprocess.run(
        ["/bin/sh", "-c", f"{limit}{cache_text.PUT[True]}\n{puts}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    files = [tmp_path / f"job {number}" for number in range(10)]
    assert {file.read_bytes() for file in files} == {b"content"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o444}
    assert len({file.stat().st_ino for file in [tmp_path / "0", *files]}) == 4


def test_copies_are_the_jobs_own(make: Make, spool: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data", MIB)
    data.chmod(0o640)
    backend = make(cache_links=False)
    apps = jobs(2, data)
    submit(backend, apps)
    copy = box(spool, apps[0]) / "data"
    info = copy.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_nlink, int(info.st_mtime)) == (0o640, 1, int(data.stat().st_mtime))
    copy.write_bytes(b"changed by the job")
    more = jobs(1, data)
    submit(backend, more)
    assert sha256(box(spool, more[0]) / "data") == sha256(box(spool, apps[1]) / "data") == sha256(data)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is held back by no permission bits")
def test_jobs_of_root_get_copies_unless_told_otherwise(make: Make, spool: Path, tmp_path: Path) -> None:
    [app] = jobs(1, write(tmp_path / "data", MIB))
    submit(make(cache_links=None), [app])
    assert (box(spool, app) / "data").stat().st_nlink == 1


# --- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_changes_spoils_its_own_jobs_only(
    make: Make, spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    shaky, sound = write(tmp_path / "shaky", 2 * MIB), write(tmp_path / "sound", MIB)
    bad, good = jobs(2, shaky, sound), jobs(2, sound)
    digest = cache.digest

    def then_change(path: Path, info: os.stat_result) -> str:
        found = digest(path, info)
        if path == shaky and bad[0].execution.state is State.SUBMITTING:
            write(path, 2 * MIB)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(cache, "digest", then_change)
        answers = make(cache_links=links).submit_jobs([bad[0], *good, bad[1]])
    for app in bad:
        assert isinstance(answers[app], DataStagingError)
        assert "shaky changed while it was being sent" in str(answers[app])
        assert app.execution.state is State.NEW
    assert [answers[app] for app in good] == [None, None]
    assert set(objects(spool)) == {sha256(sound)}
    assert {path.name for path in spool.glob("b*")} == {app.execution.token for app in good}
    assert list((spool / ".incoming").iterdir()) == []
    submit(make(), bad)
    assert sha256(box(spool, bad[0]) / "shaky") == sha256(shaky)


@pytest.mark.parametrize("damage", ["changed", "cut", "touched", "made writable"])
def test_what_was_changed_in_the_cache_is_replaced(make: Make, spool: Path, tmp_path: Path, damage: str) -> None:
    data = write(tmp_path / "data", MIB)
    backend = make()
    victims = jobs(1, data)
    submit(backend, victims)
    # a job does it to its own input
    inside = box(spool, victims[0]) / "data"
    if damage == "touched":
        inside.touch()
    else:
        inside.chmod(0o644)
    if damage == "changed":
        inside.write_bytes(bytes(MIB))
    elif damage == "cut":
        os.truncate(inside, 5)
    apps = jobs(2, data)
    submit(backend, apps)
    assert set(objects(spool)) == {sha256(data)}
    for app in apps:
        assert sha256(box(spool, app) / "data") == sha256(data)
        assert not (box(spool, app) / "data").samefile(inside)


@pytest.mark.parametrize("tool", ["sha256sum", "stat"])
def test_what_does_not_arrive_whole_gets_no_name(make: Make, spool: Path, tmp_path: Path, tool: str) -> None:
    # a machine whose tar loses the end of a file, without and with the means to see that by its digest
    script = tmp_path / "bin/tar"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\n/bin/tar "$@"; for file in .incoming/*/new/*; do truncate -s 5 "$file"; done\n')
    script.chmod(0o755)
    hide = "command() { [ $2 != sha256sum ]; }\n" if tool == "stat" else ""
    data = write(tmp_path / "data", MIB)
    apps = jobs(2, data)
    answers = make(setup=f"{hide}PATH={script.parent}:$PATH").submit_jobs(apps)
    assert all(isinstance(error, DataStagingError) for error in answers.values())
    assert objects(spool) == {}
    assert [app.execution.state for app in apps] == [State.NEW] * 2
    assert list(spool.glob("b*")) == []
    assert list((spool / ".incoming").iterdir()) == []
    submit(make(setup=hide), apps)
    assert set(objects(spool)) == {sha256(data)}


def test_a_long_look_at_what_came_is_not_taken_for_a_dead_connection(
    make: Make, spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_text, "_BEAT", 0.2)
    backend = make(timeout=1.5, setup='sha256sum() { sleep 3; command sha256sum "$@"; }')
    apps = jobs(2, write(tmp_path / "data", MIB))
    submit(backend, apps)
    assert [app.execution.state for app in apps] == [State.QUEUED] * 2


def test_a_full_file_system_is_told(make: Make, tmp_path: Path) -> None:
    setup = "cp() { echo 'cp: No space left on device' >&2; return 1; }"
    answers = make(setup=setup, cache_links=False).submit_jobs(jobs(2, write(tmp_path / "data", MIB)))
    assert all("its file system is full" in str(error) for error in answers.values())


def test_links_are_never_followed(make: Make, spool: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data", MIB)
    outside = tmp_path / "outside"
    (outside / "sha256" / sha256(data)[:2]).mkdir(parents=True)
    planted = outside / "sha256" / sha256(data)[:2] / f"{sha256(data)[2:]}.{MIB}.{int(data.stat().st_mtime)}.444"
    planted.write_bytes(bytes(MIB))
    planted.chmod(0o444)
    os.utime(planted, (data.stat().st_mtime, int(data.stat().st_mtime)))
    before = sorted(outside.rglob("*"))
    for linked, target in (("cache", outside), ("cache/sha256", outside / "sha256")):
        backend = make(cache_quota="1 B")
        shutil.rmtree(spool / "cache", ignore_errors=True)
        (spool / linked).parent.mkdir(exist_ok=True)
        (spool / linked).symlink_to(target)
        apps = jobs(2, data)
        submit(backend, apps)
        assert sha256(box(spool, apps[0]) / "data") == sha256(data)
        assert (box(spool, apps[0]) / "data").samefile(box(spool, apps[1]) / "data")
        (spool / linked).unlink()
    assert sorted(outside.rglob("*")) == before
    shutil.rmtree(spool / ".incoming")
    (spool / ".incoming").symlink_to(outside)
    answers = make().submit_jobs(jobs(1, data))
    assert all("symbolic link" in str(error) for error in answers.values())
    assert sorted(outside.rglob("*")) == before


# --- room ---------------------------------------------------------------------------------------------------------


def wait_for_the_clock(directory: Path) -> None:
    """Wait until a file that is changed now is told from one that was changed before: file systems' clocks are slow."""
    probe = directory / "probe"
    probe.touch()
    before = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == before:
        probe.touch()


def test_the_longest_unused_goes_first_and_nothing_that_is_used(make: Make, spool: Path, tmp_path: Path) -> None:
    files = [write(tmp_path / f"file{number}", MIB) for number in range(5)]
    backend = make(cache_quota="4 MiB")
    apps = []
    for file in files[:4]:
        [app] = jobs(1, file)
        submit(backend, [app])
        apps.append(app)
    # all but the second one's sandbox go, and the first is used again
    for app in (apps[0], apps[2], apps[3]):
        app.execution.state = State.DONE
        assert backend.free_jobs([app]) == {app: None}
        wait_for_the_clock(tmp_path)
    submit(backend, [used := jobs(1, files[0])[0]])
    used.execution.state = State.DONE
    backend.free_jobs([used])
    submit(backend, jobs(1, files[4]))
    assert set(objects(spool)) == {sha256(files[number]) for number in (0, 1, 3, 4)}
    # a smaller quota holds from the next new object on; what jobs hold stays
    smaller = make(cache_quota="2 MiB")
    submit(smaller, [last := jobs(1, write(tmp_path / "last", MIB))[0]])
    assert set(objects(spool)) == {sha256(files[1]), sha256(files[4]), sha256(tmp_path / "last")}
    assert sha256(box(spool, apps[1]) / "file1") == sha256(files[1])
    assert sha256(box(spool, last) / "last") == sha256(tmp_path / "last")


def test_without_links_too_the_longest_unused_goes_first(make: Make, spool: Path, tmp_path: Path) -> None:
    files = [write(tmp_path / f"file{number}", MIB) for number in range(3)]
    backend = make(cache_quota="2 MiB", setup="ln() { return 1; }")
    for file in (files[0], files[1], files[0], files[2]):
        submit(backend, jobs(1, file))
    assert set(objects(spool)) == {sha256(files[0]), sha256(files[2])}


def test_what_is_larger_than_the_cache_travels_once_all_the_same(make: Make, spool: Path, tmp_path: Path) -> None:
    large, small = write(tmp_path / "large", 3 * MIB), write(tmp_path / "small", MIB)
    apps = jobs(3, large, small)
    submit(make(cache_quota="2 MiB"), apps)
    assert set(objects(spool)) == {sha256(small)}
    assert (box(spool, apps[0]) / "large").stat().st_nlink == 3


def test_strangers_in_the_cache_are_left_alone(make: Make, spool: Path, tmp_path: Path) -> None:
    submit(make(), jobs(1, write(tmp_path / "first", MIB)))
    names = ["cache/notes", "cache/sha256/README", "cache/sha256/ab cd", "cache/sha256/new\nline"]
    for name in names:
        (spool / name).write_text("mine")
    submit(make(cache_quota="1 B"), jobs(1, write(tmp_path / "second", MIB)))
    assert all((spool / name).exists() for name in names)


@pytest.mark.parametrize("links", [True, False])
def test_the_cache_may_be_removed_at_any_time(
    make: Make, spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    data, other = write(tmp_path / "data", MIB), write(tmp_path / "other", MIB)
    backend = make(cache_links=links)
    queued = jobs(2, data)
    submit(backend, queued)
    shutil.rmtree(spool / "cache")
    again = jobs(2, data)
    submit(backend, again)
    send = backend.transport.send

    def remove_and_send(*given: object, **keys: object) -> Completed:
        shutil.rmtree(spool / "cache")
        return send(*given, **keys)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(backend.transport, "send", remove_and_send)
        submit(backend, between := jobs(2, data, other))
    for app in [*queued, *again, *between]:
        assert sha256(box(spool, app) / "data") == sha256(data)
    assert set(objects(spool)) == {sha256(other)}


# --- many at a time, and cut short --------------------------------------------------------------------------------


def test_clients_side_by_side_send_the_same(make: Make, spool: Path, tmp_path: Path) -> None:
    files = [write(tmp_path / f"file{number}", 2 * MIB) for number in range(3)]
    answers: list[dict[Application, BatchlibError | None]] = []

    def client() -> None:
        backend = make(cache_quota="5 MiB")
        for _ in range(3):
            answers.append(backend.submit_jobs(jobs(2, *files)))

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 12
    for answer in answers:
        for app, error in answer.items():
            assert error is None
            assert [sha256(box(spool, app) / file.name) for file in files] == [sha256(file) for file in files]
    assert set(objects(spool)) <= {sha256(file) for file in files}
    assert list((spool / ".incoming").iterdir()) == []


CLIENT = """
import sys
from batchlib.application import Application
from batchlib.backends.slurm import SlurmBackend
from batchlib.transport import archive

def slow(*given):
    for number, chunk in enumerate(pack_known(*given)):
        yield chunk
        if number == 6:
            print("in the middle", flush=True)
            sys.stdin.read()

pack_known, archive._pack_known = archive._pack_known, slow
backend = SlurmBackend("x", spooldir=sys.argv[1], sbatch=sys.argv[2], cache_links=True)
backend.submit_jobs([Application(["true"], inputs=[sys.argv[3]]) for _ in range(2)])
"""


def test_a_client_that_is_killed_in_the_middle_leaves_no_half_object(make: Make, spool: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data", 20 * MIB)
    backend = make()
    command = [sys.executable, "-c", textwrap.dedent(CLIENT), str(spool), str(tmp_path / "sbatch"), str(data)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "in the middle\n"
        client.kill()
    assert objects(spool) == {}
    apps = jobs(2, data)
    submit(backend, apps)
    assert set(objects(spool)) == {sha256(data)}
    assert sha256(box(spool, apps[1]) / "data") == sha256(data)
    # what is left of it goes when nobody can be at it any more
    [left] = (spool / ".incoming").iterdir()
    submit(backend, jobs(1, data))
    assert left.exists()
    for path in [*left.rglob("*"), left]:
        os.utime(path, (0, time.time() - 2 * 86400))
    submit(backend, jobs(1, data))
    assert list((spool / ".incoming").iterdir()) == []


def test_recovery_gives_up_what_was_cut_off_and_submits_it_again(
    make: Make, spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "data", MIB)
    # the machine goes down when all is unpacked and nothing is submitted
    down = make(setup='rm() { case $2 in ./.incoming/*) kill -KILL 0 ;; esac; command rm "$@"; }')
    apps = jobs(2, data)
    answers = down.submit_jobs(apps)
    assert all(error is not None for error in answers.values())
    assert [app.execution.state for app in apps] == [State.SUBMITTING] * 2
    backend = make()
    assert list(backend.recover_jobs(apps).values()) == [None, None]
    assert [app.execution.state for app in apps] == [State.NEW] * 2
    assert list(spool.glob("b*")) == []
    submit(backend, apps)
    assert [sha256(box(spool, app) / "data") for app in apps] == [sha256(data)] * 2


def test_everything_comes_back_from_jobs_that_share(make: Make, spool: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data", MIB)
    backend = make()
    apps = [
        *jobs(2, data, stdin=data, outputs=["*"]),
        *(Application(["true"], stdin=data, outputs=["*"]) for _ in range(2)),
        *jobs(2, data, outputs=["data"]),
    ]
    submit(backend, apps)
    for app in apps:
        (box(spool, app) / "stdout.txt").touch()
        (box(spool, app) / "stderr.txt").touch()
    for _ in range(2):
        found = backend.collect_jobs(
            {app: tmp_path / f"out{number}" for number, app in enumerate(apps)}, overwrite=True
        )
        assert not [answer for answer in found.values() if isinstance(answer, BatchlibError)]
    for number in (0, 1, 4, 5):
        assert sha256(tmp_path / f"out{number}/data") == sha256(data)
    assert {path.name for path in (tmp_path / "out2").iterdir()} == {"stdout.txt", "stderr.txt"}
