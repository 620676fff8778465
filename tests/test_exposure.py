"""What a build's tasks still take from the outside world: the worst first, each with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from detbuild.audit import BUILD_PATH, FIXED, HEAP_KEY, LEAKED, PASSED, TASK, Audit, Gap, Read
from detbuild.audits import Place
from detbuild.exposure import GAP, OWN, Exposure, remedy

LEAK = Read("/bin/dash", "uname", LEAKED, "config.status", "./config.status", ("sh",))

KEY = Read("/usr/bin/openssl", "getrandom", LEAKED, "openssl", "rand -hex 16", ("sh",))
IMGTOOL = Read("/usr/bin/python3.11", "getrandom", LEAKED, "imgtool", "-B /usr/bin/imgtool keygen -k 'a b'")


def at(recipe: str, task: str = "do_compile") -> Place:
    return Place(Path(f"{recipe}.{task}.json"), recipe, task)


def exposure(**records: Audit) -> Exposure:
    found = Exposure()
    for recipe, audit in records.items():
        found.add(at(recipe), audit)
    return found


def lines(found: Exposure, *kinds: str) -> list[str]:
    findings = found.of(kinds or (GAP, LEAKED), arguments=False)
    return [f"{finding.recipe} {finding.saying} ({finding.verdict})" for finding in findings]


def test_recipes_with_gaps_come_first_and_then_those_that_leak_most() -> None:
    found = exposure(
        quiet=Audit(reads={LEAK._replace(outcome=FIXED): 1009}),
        some=Audit("tracer", 1, "time", reads={LEAK: 2}),
        most=Audit("tracer", 1, "time", reads={LEAK: 1, Read("/bin/b", "sysinfo", LEAKED, "b"): 7}),
        gaps=Audit(gaps={Gap("program out of reach", "sudo"): 1}),
    )
    assert lines(found) == [
        "gaps program out of reach: sudo (gap: see `detbuild doctor`, and run it again)",
        "most b read sysinfo (leaked 7 times: policy time leaves it)",
        "most config.status <- sh read uname (leaked: policy time leaves it)",
        "some config.status <- sh read uname (leaked 2 times: policy time leaves it)",
    ]
    assert found.exposed == ["gaps", "most", "some"]


def test_runs_that_differ_in_arguments_only_are_one_finding_and_json_has_them_all() -> None:
    found = exposure(x=Audit("tracer", 1, "time", reads={LEAK: 2, LEAK._replace(arguments="other"): 3}))
    assert lines(found) == ["x config.status <- sh read uname (leaked 5 times: policy time leaves it)"]
    rows = found.to_dict()["findings"]
    assert [(row["arguments"], row["count"]) for row in rows] == [("other", 3), ("./config.status", 2)]
    assert rows[0]["parents"] == ["sh"]


def test_what_was_fixed_or_passed_is_shown_only_when_asked_for() -> None:
    found = exposure(x=Audit(reads={LEAK._replace(outcome=FIXED): 2, LEAK._replace(outcome=PASSED): 1}))
    assert lines(found) == []
    assert found.exposed == []
    assert lines(found, PASSED, FIXED) == [
        "x config.status <- sh read uname (passed)",
        "x config.status <- sh read uname (fixed 2 times)",
    ]


@pytest.mark.parametrize(
    ("audit", "remedy"),
    [
        (
            Audit("tracer", 1, "observe", reads={LEAK._replace(source="time"): 1}, observed=True),
            "add do_compile to DETBUILD_TASKS",
        ),
        (
            Audit("tracer", 1, "observe", reads={LEAK: 1}, observed=True),
            "add do_compile to DETBUILD_TASKS, with policy strict",
        ),
        (
            Audit("tracer", 1, "observe", reads={LEAK._replace(source="/proc/meminfo"): 1}, observed=True),
            "no policy fixes it",
        ),
        (Audit("tracer", 1, "observe", reads={LEAK: 1}), "policy strict fixes it"),
        (Audit("tracer", 1, "observe", reads={LEAK._replace(source="/dev/urandom"): 1}), "policy strict fixes it"),
        (Audit("tracer", 1, "observe", reads={LEAK._replace(source="/proc/meminfo"): 1}), "no policy fixes it"),
        (Audit("tracer", 1, "observe -random", reads={LEAK._replace(source="statx"): 1}), "policy time fixes it"),
        *(
            (Audit("tracer", 1, "observe", reads={LEAK._replace(source=call): 1}, observed=task), "no policy fixes it")
            for call in ("perf_event_open", "bpf", "iopl", "ioperm")
            for task in (False, True)
        ),
        (Audit("tracer", 1, "time", reads={LEAK._replace(source="bpf", name=""): 1}), "policy time leaves it"),
        (Audit("tracer", 1, "observe", reads={KEY: 1}), "no policy fixes it, its random numbers are for keys"),
        (Audit("tracer", 1, "strict", reads={KEY: 1}), "no policy fixes it, its random numbers are for keys"),
        (
            Audit("tracer", 1, "observe", reads={KEY._replace(source="/dev/urandom"): 1}, observed=True),
            "no policy fixes it, its random numbers are for keys",
        ),
        (Audit("tracer", 1, "observe", reads={IMGTOOL: 1}), "no policy fixes it, its random numbers are for keys"),
        (Audit("tracer", 1, "observe", reads={KEY._replace(source="uname"): 1}), "policy strict fixes it"),
        (
            Audit("tracer", 1, "observe", reads={IMGTOOL._replace(arguments="-c 'imgtool..."): 1}),
            "policy strict fixes it",
        ),
        (
            Audit("tracer", 1, "strict", reads={LEAK._replace(source=BUILD_PATH): 1}),
            "no policy changes a path, have the recipe name the target's own",
        ),
        (Audit("tracer", 1, "time", reads={LEAK._replace(source="ptrace"): 1}), "make it outside the debugger"),
        (
            Audit("tracer", 1, "time", reads={Read("/bin/a", "time", LEAKED): 1}),
            "a debugger ran it, make it outside one",
        ),
        (Audit(gaps={Gap("outer session", "it goes on"): 1}), "open one session only"),
    ],
)
def test_a_finding_says_what_to_do(audit: Audit, remedy: str) -> None:
    (finding,) = exposure(x=audit).of((GAP, LEAKED), arguments=False)
    assert finding.remedy == remedy


PYTHON = Read("/usr/bin/python3", "clock_gettime", LEAKED, TASK)


@pytest.mark.parametrize("engine", ["tracer", "ebpf"])
def test_what_the_tasks_own_python_read_is_no_leak_of_its_recipe_but_is_summed_up(engine: str) -> None:
    found = exposure(x=Audit(engine, 1, "time", reads={PYTHON: 7}), y=Audit(engine, 1, "time", reads={PYTHON: 2}))
    assert (found.exposed, lines(found)) == ([], [])
    assert found.summed_up(OWN) == ({"x", "y"}, {"clock_gettime": 9})
    assert found.to_dict()["folded"][OWN] == {"recipes": ["x", "y"], "reads": {"clock_gettime": 9}}
    assert lines(found, OWN)[0] == (
        f"x {PYTHON.chain} read clock_gettime (own 7 times: the task's own Python sees the real world, "
        "have a program do it)"
    )


@pytest.mark.parametrize("policy", ["time", "observe"])
def test_a_python_of_which_no_name_is_on_record_is_not_taken_for_the_tasks_own(policy: str) -> None:
    found = exposure(x=Audit("ebpf", 1, policy, reads={PYTHON._replace(name=""): 1}))
    assert found.exposed == ["x"]


def test_the_key_that_malloc_takes_in_every_program_is_no_leak() -> None:
    found = exposure(x=Audit("tracer", 1, "observe", reads={LEAK._replace(source=HEAP_KEY): 31}))
    assert (found.exposed, lines(found)) == ([], [])


def test_make_that_starts_make_is_one_program_and_the_tasks_script_is_the_task() -> None:
    deep = Read("/bin/bash", "uname", LEAKED, "bash", "", ("make", "make", "bash", "make", "run.do_compile"))
    found = exposure(
        x=Audit("tracer", 1, "time", reads={deep: 3, deep._replace(parents=("make", "run.do_compile")): 1})
    )
    assert lines(found) == ["x bash <- make read uname (leaked 4 times: policy time leaves it)"]


def test_of_many_recipes_a_source_is_one_line_by_the_program_that_read_it_most() -> None:
    reads = {LEAK: 2, Read("/bin/a", "uname", LEAKED, "a"): 5, Read("/bin/b", "sysinfo", LEAKED, "b"): 3}
    found = exposure(x=Audit("tracer", 1, "observe", reads={**reads, Read("/bin/c", "uname", LEAKED, "c"): 1}))
    said = [f"{finding.saying} ({finding.verdict})" for finding in found.by_source((GAP, LEAKED))]
    assert said == [
        "a and 2 more read uname (leaked 8 times: policy strict fixes it)",
        "b read sysinfo (leaked 3 times: policy strict fixes it)",
    ]


def test_what_a_record_leaves_out_is_noted_with_its_recipe() -> None:
    found = exposure(x=Audit(merged={"arguments": 31}, survivors=["/bin/sccache", "/bin/sccache"]))
    assert found.notes == [
        "x do_compile: the arguments of 31 reads are not on record: there were too many different ones",
        "x do_compile: /bin/sccache still ran at the session's end, and what it read later is not on record",
    ]


def test_json_names_its_format_and_counts() -> None:
    data = exposure(x=Audit("tracer", 1, "time", reads={LEAK: 1}), y=Audit()).to_dict()
    assert (data["format"], data["version"]) == ("detbuild-exposure", 1)
    assert (data["records"], data["recipes"], data["exposed"]) == (2, 2, ["x"])


def test_a_task_that_no_session_holds_is_not_to_be_added() -> None:
    audit = Audit("tracer", 1, "observe", reads={LEAK: 1}, observed=True)
    (read,) = audit.reads
    assert remedy(audit, read, "do_package") == "no session holds such a task, have another one make it"
    assert remedy(audit, read, "do_packages") == "add do_packages to DETBUILD_TASKS, with policy strict"
