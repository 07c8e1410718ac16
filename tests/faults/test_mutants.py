"""With any one rule of the protocol removed from the engine, a test of real processes fails.

A mutant that survives means that a guarantee rests on something that these tests cannot see. Each one names the test that must
notice; in full mode that test is also seen to pass with the rule in place.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from faults import mutants
from faults import test_database_errors as database_errors
from faults import test_kill as kill
from faults import test_late as late
from faults import test_order as order
from faults import test_power as power
from faults import test_unmounted as unmounted
from faults.harness import FULL, Driver, Studio, ext4, fast_folder, sample

pytestmark = pytest.mark.timeout(1200)

NOTICED_BY: dict[str, Callable[[Studio], None]] = {
    "no_confirm_before_the_reveal": late.test_an_owner_that_sleeps_before_it_stages_reveals_nothing_later,
    "deletion_in_place": late.test_an_owner_that_reveals_while_it_is_undone_reveals_nothing,
    "no_compare_and_swap_at_the_owners_rollback": late.test_an_owner_must_win_the_right_to_roll_back,
    "no_burnt_numbers": late.test_a_number_is_burnt_rather_than_raced_for,
    "plain_rename": late.test_a_folder_that_appears_before_the_reveal_is_never_replaced,
    "no_sync_of_staged_files": order.test_everything_staged_is_durable_before_anybody_can_see_it,
    "no_sync_of_staged_folders": order.test_everything_staged_is_durable_before_anybody_can_see_it,
    "no_sync_of_folders_made_above": order.test_everything_staged_is_durable_before_anybody_can_see_it,
    "no_sync_of_the_file_system": order.test_everything_staged_is_durable_before_anybody_can_see_it,
    "no_sync_of_the_journal": order.test_everything_staged_is_durable_before_anybody_can_see_it,
    "no_sync_of_parents_after_the_reveal": order.test_a_final_name_is_durable_before_a_document_says_so,
    "no_sync_of_a_withdrawal": order.test_a_withdrawal_is_durable_before_anything_of_it_is_deleted_or_released,
    "no_sync_of_an_exchange": order.test_an_exchange_is_durable_before_the_transaction_ends,
    "no_lease_fence_in_the_verdict": late.test_a_broken_lease_loses_at_the_verdict_though_nobody_took_over,
    "no_second_look_after_the_claim": late.test_a_folder_that_appears_before_the_claim_is_seen_after_it,
    "release_before_the_withdrawal": kill.test_a_number_is_released_only_when_the_withdrawal_is_done,
    "an_open_that_is_an_answer": database_errors.test_a_verdict_that_comes_back_finds_its_files,
    "anything_at_a_final_path_is_ours": kill.test_a_folder_that_somebody_made_meanwhile_is_left_by_recovery,
    "no_acknowledged_commit": order.test_a_commit_is_durable_before_it_is_acknowledged,
}
#: Noticed only on a file system of one's own.
NOTICED_ON_A_DISK = ("no_look_at_the_marker_of_a_root", "no_acknowledged_commit", "no_sync_of_the_file_system")


def test_every_mutant_is_tried() -> None:
    assert set(mutants.MUTANTS) == {*NOTICED_BY, *NOTICED_ON_A_DISK}


@pytest.mark.parametrize("mutant", sample(list(NOTICED_BY), 7))
def test_a_removed_rule_is_noticed(studio: Studio, shim: Path, mutant: str) -> None:
    notice = NOTICED_BY[mutant]
    if FULL:
        notice(studio)
    driver = Driver(shim, mutant)
    try:
        with pytest.raises(AssertionError):
            notice(studio.run_by(driver))
    finally:
        driver.close()


@pytest.mark.root
@pytest.mark.parametrize("mutant", sample(NOTICED_ON_A_DISK, 1))
def test_a_removed_rule_is_noticed_on_a_disk(studio: Studio, shim: Path, mutant: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: a file system of one's own needs root")
    driver = Driver(shim, mutant)
    try:
        with ext4(fast_folder()) as disk, pytest.raises(AssertionError):
            if mutant == "no_look_at_the_marker_of_a_root":
                unmounted.test_a_root_that_is_not_mounted_settles_nothing_until_it_is_back(studio.run_by(driver), disk)
            else:
                on_disk = Studio(os.path.join(disk.path, "studio"), driver)
                power.test_what_was_acknowledged_survives_a_power_cut(on_disk, disk)
    finally:
        driver.close()
