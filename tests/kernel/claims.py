"""All that is claimed of the eBPF engine on a real kernel: a function a claim, run inside the virtual machine."""

from __future__ import annotations

from collections.abc import Callable

import claims_as_a_user as user
import claims_by_hand as by_hand
import claims_in_containers as within
import claims_of_gaps as gaps
import claims_of_strict as strict
import claims_of_the_record as record
from hand import State

Claim = Callable[[State], None]

LIMIT = 600  # seconds: nothing may hang, and a busy host emulates slowly
_GAPS: tuple[Claim, ...] = (
    gaps.a_sleep_whose_duration_is_out_of_reach_is_a_gap,
    gaps.a_result_that_could_not_be_rewritten_is_a_gap_in_the_sessions_record,
    gaps.a_session_with_too_many_processes_has_a_gap,
    gaps.a_process_whose_last_thread_found_no_room_leaves_nothing_behind,
    gaps.reads_without_a_row_in_the_audit_are_a_gap,
    gaps.runs_that_cannot_be_counted_are_a_gap,
    gaps.a_program_that_keeps_its_vdso_is_a_gap,
    gaps.return_probes_that_the_kernel_skips_are_a_gap,
)
_RECORD: tuple[Claim, ...] = (
    record.a_record_names_arguments_and_parents_as_the_tracers_does,
    record.a_forked_child_whose_parent_has_ended_keeps_its_name_on_record,
    record.a_build_path_and_the_key_of_malloc_are_on_record_as_under_the_tracer,
)
_CONTAINERS: tuple[Claim, ...] = (
    within.a_docker_container_has_sessions_by_the_daemons_socket,
    within.a_profile_that_hides_memory_opens_no_session,
    within.a_podman_container_has_sessions_by_the_daemons_socket,
    within.a_rootless_container_has_sessions_where_crun_keeps_the_users_groups,
    within.a_container_needs_another_seccomp_profile_for_the_rule_layout,
    within.daemons_in_containers_serve_the_machine_and_take_over_from_others,
)
# Minutes each, or for what few machines have: made where they are asked for by name, or there is the time.
_LONG: tuple[Claim, ...] = (
    strict.what_waits_ends_in_time_under_strict,
    strict.short_processes_end_under_strict,
    strict.a_perl_module_in_c_is_the_same_in_two_places_under_strict,
    strict.a_wheel_with_a_module_in_c_is_the_same_in_two_places_under_strict,
    *_CONTAINERS,
)
AMPLE = 2400  # seconds of a machine that has the time
CLAIMS: tuple[Claim, ...] = (
    by_hand.a_clock_moves_by_a_microsecond_a_read,
    by_hand.after_1024_reads_a_clock_moves_by_a_second_a_read,
    by_hand.a_thread_and_a_fork_go_on_from_their_maker_and_an_exec_starts_anew,
    by_hand.the_wall_clocks_are_fixed_and_the_others_real,
    by_hand.every_sleep_moves_the_clock_by_as_much,
    by_hand.a_sleep_that_is_stopped_and_goes_on_counts_once,
    by_hand.a_sleep_that_a_handler_ends_does_not_count,
    by_hand.a_spared_process_sees_the_real_clock_and_its_children_the_epoch,
    by_hand.flags_give_the_real_clock_and_the_true_file_times,
    by_hand.a_program_that_a_thread_executes_is_held,
    by_hand.a_set_user_id_program_leaves_the_session,
    by_hand.a_process_with_a_used_number_inherits_nothing,
    by_hand.a_killed_process_leaves_nothing_behind,
    by_hand.every_process_of_a_session_is_known_for_its_own,
    by_hand.a_session_that_is_dropped_lets_its_process_go,
    by_hand.under_load_no_read_is_real,
    user.a_command_sees_the_epoch_and_the_audit_names_it,
    *_RECORD,
    user.a_session_that_observes_changes_nothing_and_reports_every_read,
    user.a_program_that_makes_keys_has_real_random_numbers,
    user.every_stat_call_shows_the_epoch,
    user.an_older_time_is_shown_as_it_is,
    user.make_compares_true_times_and_what_it_runs_sees_shown_ones,
    user.a_loop_of_programs_that_waits_for_the_clock_ends,
    user.parallel_jobs_with_one_command_line_see_one_time,
    user.sessions_at_once_keep_their_own_epochs,
    user.of_1009_processes_in_one_session_each_is_counted,
    user.a_daemon_that_is_killed_lets_no_process_see_the_real_time,
    user.a_session_that_ends_while_no_daemon_runs_says_so,
    user.a_supervisor_that_is_killed_takes_its_session_with_it,
    user.whoever_is_not_in_the_group_is_refused,
    user.nobody_is_put_into_a_session_by_a_stranger,
    user.a_container_with_namespaces_of_its_own_has_sessions,
    user.a_fakeroot_task_has_a_session,
    user.a_task_of_bitbake_is_in_a_session_of_the_engine,
    gaps.programs_whose_rule_nobody_decided_are_a_gap_and_see_the_epoch,
    *_GAPS,
    gaps.fexit_programs_that_the_kernel_skips_are_a_gap,
    gaps.reads_where_another_program_was_interrupted_in_bpf_are_a_gap,
    strict.a_random_device_has_the_readers_own_bytes,
    strict.a_read_of_a_random_device_that_is_too_large_is_a_gap,
    strict.shells_have_numbers_of_their_own_and_can_be_reached_by_them,
    # These take minutes, and a machine's time may end before them.
    user.lua_built_twice_is_the_same,
    user.an_upgrade_leaves_sessions_to_the_programs_that_hold_them,
    *_LONG,
)
LIMITS: dict[Claim, int] = {
    user.lua_built_twice_is_the_same: 1200,
    user.an_upgrade_leaves_sessions_to_the_programs_that_hold_them: 1200,  # it compiles two more sets of programs
    **dict.fromkeys(_LONG, 1200),
}

MODES = ("voluntary", "full")
USERS = {"voluntary": ("nobody",), "full": ("root",)}  # who runs the table of clock cases: each one all of it
# What is so under one mode alone, or under any and takes long under emulation: made in one of the machines.
_IN_ONE: dict[str, tuple[Claim, ...]] = {
    "voluntary": (
        *_RECORD,
        user.a_program_that_makes_keys_has_real_random_numbers,
        user.a_fakeroot_task_has_a_session,
        user.a_task_of_bitbake_is_in_a_session_of_the_engine,
        user.lua_built_twice_is_the_same,
        *_GAPS,
        *_LONG,
    ),
    "full": (
        gaps.fexit_programs_that_the_kernel_skips_are_a_gap,
        gaps.reads_where_another_program_was_interrupted_in_bpf_are_a_gap,
        user.an_upgrade_leaves_sessions_to_the_programs_that_hold_them,
    ),
}


def under(mode: str) -> tuple[Claim, ...]:
    """The claims to be made under a preemption mode."""
    elsewhere = {claim for other, claims in _IN_ONE.items() if other != mode for claim in claims}
    return tuple(claim for claim in CLAIMS if claim not in elsewhere)


def too_long(claim: Claim, seconds: float) -> str:
    """Why a claim is not made unasked by a machine with so many seconds, or ""."""
    return f"it takes minutes: DETBUILD_VM_SECONDS={AMPLE} has it made" if claim in _LONG and seconds < AMPLE else ""


def name(claim: Claim) -> str:
    return claim.__name__.replace("_", " ")
