"""What was appended comes back, whole and in order, whatever became of the process and of the file's end."""

import asyncio
import os
import resource
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from connectors import journal as module
from connectors.errors import ConfigurationError, PublishError
from connectors.journal import Journal, Record, frame

ROOT = Path(__file__).parents[2]
PLENTY = 1 << 30

records = st.builds(
    Record,
    subject=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    msg_id=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    payload=st.binary(max_size=400),
    headers=st.none() | st.dictionaries(st.text("ab", max_size=3), st.text("cd", max_size=3), max_size=2),
    accepted_ns=st.integers(0, 2**62),
)


def record(number: int, size: int = 0) -> Record:
    return Record("spark.usage.s", str(number), b"x" * size, None, number)


@contextmanager
def directory() -> Iterator[Path]:
    """A new one for each example of Hypothesis."""
    with TemporaryDirectory() as name:
        yield Path(name)


def leave(root: Path, those: list[Record]) -> None:
    """Be a process that ends before anything is acknowledged."""
    with closing(Journal(root, PLENTY)) as journal:
        for one in those:
            journal.append(one)


def read_all(journal: Journal, *, acknowledge: bool = False) -> list[Record]:
    found = []
    while (one := journal.read()) is not None:
        found.append(one[1])
        if acknowledge:
            journal.acknowledge(one[0])
    return found


def adopted(root: Path) -> list[Record]:
    """What the next process sends."""
    with closing(Journal(root, PLENTY)) as journal:
        count = asyncio.run(journal.adopt())
        found = read_all(journal, acknowledge=True)
        assert journal.pending == 0
        assert journal.bytes == 0
        assert count >= len(found)
        return found


def segments(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.log"))


@hypothesis_settings(deadline=None)
@given(those=st.lists(records, max_size=8), data=st.data())
def test_of_a_file_cut_at_any_byte_the_whole_records_come_back_in_order(
    those: list[Record], data: st.DataObject
) -> None:
    with directory() as root:
        leave(root, those)
        if not those:
            assert not list(root.iterdir())
            return
        (file,) = segments(root)
        whole = file.read_bytes()
        assert whole == b"".join(map(frame, those))
        cut = data.draw(st.integers(0, len(whole)))
        os.truncate(file, cut)
        ends = [len(b"".join(map(frame, those[: n + 1]))) for n in range(len(those))]
        assert adopted(root) == [one for one, end in zip(those, ends, strict=True) if end <= cut]
        assert not list(root.iterdir()), "nothing is left, and a torn record is no damage"


@hypothesis_settings(deadline=None)
@given(those=st.lists(records, min_size=1, max_size=8), change=st.integers(1, 255), data=st.data())
def test_from_a_changed_byte_on_the_file_is_set_aside_and_what_is_before_it_comes_back(
    those: list[Record], change: int, data: st.DataObject
) -> None:
    with directory() as root:
        leave(root, those)
        (file,) = segments(root)
        content = bytearray(file.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= change
        file.write_bytes(content)
        good, end = 0, 0
        while (end := end + len(frame(those[good]))) <= at:
            good += 1
        with capture_logs() as logs:
            assert adopted(root) == those[:good]
        (left,) = root.iterdir()
        assert left.name == f"{file.parent.name}-{file.name}.damaged"
        assert left.read_bytes() == content
        (said,) = logs
        assert (said["file"], said["offset"]) == (str(file), sum(len(frame(one)) for one in those[:good]))
        assert adopted(root) == [], "it is not tried again"


@hypothesis_settings(deadline=None)
@given(
    steps=st.lists(st.sampled_from(["append", "append large", "read", "acknowledge", "acknowledge last"]), max_size=60)
)
def test_a_journal_is_a_queue_of_which_a_crash_forgets_nothing_that_is_not_acknowledged(steps: list[str]) -> None:
    with directory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SEGMENT_BYTES", 500)
        patch.setattr(module, "KEEP_BYTES", 200)
        unread: deque[Record] = deque()
        unacknowledged: list[tuple[module.Segment, Record]] = []
        with closing(Journal(root, PLENTY)) as journal:
            for number, step in enumerate(steps):
                if step.startswith("append"):
                    unread.append(record(number, 300 if step == "append large" else 10))
                    journal.append(unread[-1])
                elif step == "read":
                    found = journal.read()
                    if found is not None:
                        assert found[1] == unread.popleft()
                        unacknowledged.append(found)
                    else:
                        assert not unread
                elif unacknowledged:
                    journal.acknowledge(unacknowledged.pop(-1 if step == "acknowledge last" else 0)[0])
                assert journal.pending == len(unread) + len(unacknowledged)
                assert journal.bytes == sum(one.stat().st_size for one in segments(root))
                assert len(segments(root)) <= journal.pending + 1
        again = adopted(root)
        wanted = {one.msg_id for _, one in unacknowledged} | {one.msg_id for one in unread}
        assert [one.accepted_ns for one in again] == sorted(one.accepted_ns for one in again)
        assert wanted <= {one.msg_id for one in again}
        assert wanted or not again


def test_segments_go_one_by_one_as_they_are_acknowledged_and_the_directory_with_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 1000)
    with closing(Journal(tmp_path, PLENTY)) as journal:
        for number in range(10):
            journal.append(record(number, 400))
        assert len(segments(tmp_path)) == 5
        for left in (5, 4, 4, 3, 3):
            found = journal.read()
            assert found is not None
            journal.acknowledge(found[0])
            assert len(segments(tmp_path)) == left
        read_all(journal, acknowledge=True)
    assert not list(tmp_path.iterdir())


def test_what_is_acknowledged_is_deleted_before_its_segment_is_full(tmp_path: Path) -> None:
    """So that a crash sends little of it again."""
    with closing(Journal(tmp_path, PLENTY)) as journal:
        for number in range(200):
            journal.append(record(number, 1000))
            read_all(journal, acknowledge=True)
            assert journal.bytes < module.KEEP_BYTES + 1100


def test_what_older_processes_left_is_sent_first_and_oldest_first(tmp_path: Path) -> None:
    with closing(Journal(tmp_path, PLENTY)) as first, closing(Journal(tmp_path, PLENTY)) as second:
        second.append(record(2))
        first.append(record(1))
    with closing(Journal(tmp_path, PLENTY)) as third:
        third.append(record(3))
        assert asyncio.run(third.adopt()) == 2
        assert [one.accepted_ns for one in read_all(third)] == [1, 2, 3]


def test_a_directory_of_a_living_process_is_left_alone_until_it_is_killed(tmp_path: Path) -> None:
    program = f"""
from connectors.journal import Journal, Record
from pathlib import Path
journal = Journal(Path({str(tmp_path)!r}), 1 << 30)
for number in range(3):
    journal.append(Record("s", str(number), b"", None, number))
print("ready", flush=True)
input()
"""
    with (
        closing(Journal(tmp_path, PLENTY)) as journal,
        subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert asyncio.run(journal.adopt()) == 0
        process.kill()
        process.wait()
        assert asyncio.run(journal.adopt()) == 3
        assert [one.msg_id for one in read_all(journal, acknowledge=True)] == ["0", "1", "2"]
        assert len(list(tmp_path.iterdir())) == 1, "only ours is left"


def test_of_processes_that_start_at_once_each_record_is_adopted_by_one(tmp_path: Path) -> None:
    for number in range(20):
        leave(tmp_path, [record(number)])
    program = f"""
import asyncio
from connectors.journal import Journal
from pathlib import Path
print("ready", flush=True)
input()
journal = Journal(Path({str(tmp_path)!r}), 1 << 30)
asyncio.run(journal.adopt())
while (found := journal.read()) is not None:
    print(found[1].msg_id)
print("done", flush=True)
input()
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    found: list[str] = []
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            assert process.stdout is not None
            found += [line.strip() for line in iter(process.stdout.readline, "done\n")]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert sorted(found, key=int) == [str(number) for number in range(20)]


def test_processes_that_start_and_end_while_others_adopt_lose_and_double_nothing(tmp_path: Path) -> None:
    count, over = 300, threading.Event()
    found: list[str] = []

    def take() -> None:
        with closing(Journal(tmp_path, PLENTY)) as journal:
            while not over.is_set():
                asyncio.run(journal.adopt())
                found.extend(one.msg_id for one in read_all(journal, acknowledge=True))

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(count):
            leave(tmp_path, [record(number)])
            leave(tmp_path, [])
    finally:
        over.set()
        for thread in threads:
            thread.join()
    found += [one.msg_id for one in adopted(tmp_path)]
    assert sorted(found, key=int) == [str(number) for number in range(count)]
    assert not list(tmp_path.iterdir())


def test_a_full_journal_refuses_until_something_is_acknowledged(tmp_path: Path) -> None:
    room = 10 * len(frame(record(1, 20_000)))
    with closing(Journal(tmp_path, room)) as journal:
        for number in range(1, 11):
            journal.append(record(number % 10, 20_000))
        with pytest.raises(PublishError, match=r"10 events wait .* SLATE_SPILL_DIR"):
            journal.append(record(1))
        assert sum(one.stat().st_size for one in segments(tmp_path)) <= room
        assert len(read_all(journal, acknowledge=True)) == 10
        journal.append(record(1))


def test_of_a_record_that_the_disk_had_no_room_for_nothing_counts(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with closing(Journal(tmp_path, PLENTY)) as journal:
        journal.append(record(1, 5000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))
        try:
            for _ in range(3):
                with pytest.raises(PublishError, match="SLATE_SPILL_DIR"):
                    journal.append(record(2, 5000))
            journal.append(record(3, 500))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        journal.append(record(4, 5000))
        (file,) = segments(tmp_path)
        assert file.read_bytes() == b"".join(map(frame, [record(1, 5000), record(3, 500), record(4, 5000)]))
        assert [one.accepted_ns for one in read_all(journal)] == [1, 3, 4]


def test_damage_to_what_is_being_written_does_not_keep_later_records(tmp_path: Path) -> None:
    with closing(Journal(tmp_path, PLENTY)) as journal:
        for number in range(3):
            journal.append(record(number))
        (file,) = segments(tmp_path)
        content = bytearray(file.read_bytes())
        content[len(frame(record(0))) + 3] ^= 1
        file.write_bytes(content)
        first = journal.read()
        assert first is not None
        with capture_logs() as logs:
            assert journal.read() is None
        assert logs[0]["records_at_least"] == 2
        assert journal.pending == 1
        assert file.exists(), "a crash now must not lose the record that is on its way"
        journal.append(record(3))
        journal.acknowledge(first[0])
        assert not file.exists()
        assert [one.accepted_ns for one in read_all(journal, acknowledge=True)] == [3]
        assert journal.pending == 0
    assert [one.suffix for one in tmp_path.iterdir()] == [".damaged"]


def test_nobody_else_may_read_what_is_kept(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(Journal(tmp_path / "spill", PLENTY)) as journal:
            journal.append(record(1))
            files = [tmp_path / "spill", *(tmp_path / "spill").rglob("*")]
            assert {(one.is_dir(), one.stat().st_mode & 0o777) for one in files} == {(True, 0o700), (False, 0o600)}
    finally:
        os.umask(before)


def test_a_directory_that_cannot_be_written_is_named_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="SLATE_SPILL_DIR"):
        Journal(tmp_path / "file" / "spill", PLENTY)


def test_foreign_files_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data").write_text("data")
    leave(tmp_path, [record(1)])
    assert adopted(tmp_path) == [record(1)]
    assert (tmp_path / "note.txt").read_text() == "hello"
    assert [one.name for one in (tmp_path / "other").iterdir()] == ["data"]
    assert (tmp_path / "lost+found").exists()
