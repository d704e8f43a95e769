"""The table of all kinds of bad logs: who cheats, and at which step with which code verification must fail.

``how`` says whose hands changed the logs (see :mod:`tests.tampering.story`):

- *files*: a thief's, on the files themselves;
- *live*: an owner's, as it wrote; its witnesses cosigned what they were shown;
- *after*: the owners named, who write their past anew and leave out the honest cosignatures that no longer fit; *stale*: who
  leave them on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.tampering import choosing, disclosing, lies, rewriting, steps, theft
from tests.tampering.story import Story

Cheat = Literal["thief", "bank", "platform", "coordinator", "bank+platform", "bank+coordinator", "platform+coordinator", "all"]
How = Literal["files", "live", "after", "stale"]


@dataclass(frozen=True)
class Kind:
    """One kind of bad logs.

    Attributes:
        change: of the story, or (``how`` = files) of the written files.
        fails_at: the step.
        code: the error's, or "" where logs are only found incomplete.
        status: the exit status: 1, or 2 where something is only missing, or 3 where the input cannot be used.
        last: the auditor kept the bank's last checkpoint from before.
        needs: a message type that the label holder must have sent, or whom it must have told aggregates; joined by "+".
    """

    change: Callable[[Any], None]
    cheat: Cheat
    fails_at: int
    code: str
    how: How = "live"
    status: int = 1
    last: bool = False
    needs: str = ""

    @property
    def name(self) -> str:
        """As the manifest calls it."""
        return self.change.__name__.replace("_", "-") + ("-and-auditor-remembers" if self.last else "")

    def suits(self, story: Story) -> bool:
        """Whether the job has what this kind changes."""
        told = story[story.holder]
        return all(
            told.entries("message", type=need) or told.entries("disclosure", what="aggregates", to=need)
            for need in self.needs.split("+")
            if need
        )

    def make(self, story: Story, folder: Path) -> dict[str, Path]:
        """Write the bad logs; the story given stays as it is."""
        changed = story.copy()
        if self.how == "files":
            files = theft.Files(changed.write(folder), changed)
            self.change(files)
            return files.folders
        self.change(changed)
        if self.how == "live":
            return changed.write(folder)
        colluders = tuple(story.logs) if self.cheat == "all" else self.cheat.split("+")
        return changed.write(folder, colluders=colluders, stale=self.how == "stale")


def stolen(change: Callable[[Any], None], fails_at: int, code: str, status: int = 1) -> Kind:
    """A kind of a thief's."""
    return Kind(change, "thief", fails_at, code, how="files", status=status)


KINDS: tuple[Kind, ...] = (
    # ---- (0), and what no step can use ------------------------------------------------------------------------------------
    stolen(theft.first_line_garbled, 0, "log.entry_malformed", 3),
    stolen(theft.log_emptied, 0, "audit.empty", 3),
    stolen(theft.log_given_as_another_s, 0, "audit.log_twice", 3),
    stolen(theft.log_of_a_stranger, 0, "audit.log_unknown", 3),
    # ---- (1) --------------------------------------------------------------------------------------------------------------
    stolen(theft.checkpoint_with_another_root, 1, "audit.bad_signature"),
    stolen(theft.checkpoint_with_another_size, 1, "audit.bad_signature"),
    stolen(theft.checkpoint_extended, 1, "audit.bad_signature"),
    stolen(theft.checkpoint_garbled, 1, "audit.bad_note"),
    stolen(theft.checkpoint_under_a_thief_s_key, 1, "audit.not_signed"),
    stolen(theft.checkpoint_unsigned, 1, "audit.not_signed"),
    stolen(theft.checkpoint_of_another_log, 1, "audit.not_signed"),
    stolen(theft.cosignature_altered, 1, "audit.bad_signature"),
    stolen(theft.cosignature_moved_from_another_checkpoint, 1, "audit.bad_signature"),
    stolen(theft.witnessed_checkpoint_altered, 1, "audit.bad_signature"),
    stolen(theft.witnessed_checkpoint_not_cosigned, 1, "audit.not_cosigned"),
    Kind(rewriting.past_rewritten_with_stale_cosignatures, "bank", 1, "audit.bad_signature", how="stale"),
    Kind(rewriting.past_rewritten_under_a_new_key, "bank", 1, "audit.not_signed", how="after"),
    Kind(theft.two_heads_of_one_size, "bank", 1, "audit.two_histories", how="files"),
    stolen(theft.witness_s_memory_garbled, 1, "audit.bad_note"),
    # ---- (2) --------------------------------------------------------------------------------------------------------------
    Kind(rewriting.past_rewritten, "bank", 2, "audit.forked", how="after"),
    Kind(rewriting.platform_s_past_rewritten, "platform", 2, "audit.forked", how="after"),
    Kind(rewriting.coordinator_s_past_rewritten, "coordinator", 2, "audit.forked", how="after"),
    Kind(rewriting.last_entry_rewritten, "bank", 2, "audit.forked", how="after"),
    Kind(rewriting.entries_added_in_the_middle, "bank", 2, "audit.forked", how="after"),
    Kind(rewriting.older_copy_continued_otherwise, "bank", 2, "audit.forked", how="after"),
    Kind(rewriting.message_rewritten_by_both_nodes, "bank+platform", 2, "audit.forked", how="after"),
    Kind(rewriting.disclosure_hidden_by_bank_and_coordinator, "bank+coordinator", 2, "audit.forked", how="after"),
    Kind(rewriting.disclosure_hidden_by_platform_and_coordinator, "platform+coordinator", 2, "audit.forked", how="after"),
    Kind(rewriting.older_copy, "bank", 2, "", how="after", status=2),
    Kind(rewriting.older_copy, "bank", 2, "audit.rolled_back", how="after", last=True),
    Kind(rewriting.everything_rewritten_by_all, "all", 2, "audit.rewritten", how="after", last=True),
    Kind(rewriting.job_erased_by_all, "all", 2, "audit.rolled_back", how="after", last=True),
    # ---- (3) --------------------------------------------------------------------------------------------------------------
    stolen(theft.line_cut, 3, "audit.cut_line", 3),
    stolen(theft.newline_lost, 3, "audit.cut_line", 3),
    stolen(theft.line_cut_within, 3, "audit.entry_malformed", 3),
    stolen(theft.white_space_added, 3, "audit.entry_malformed", 3),
    stolen(theft.field_twice, 3, "audit.entry_malformed", 3),
    stolen(theft.integer_as_float, 3, "audit.entry_malformed", 3),
    stolen(theft.not_utf8, 3, "audit.entry_malformed", 3),
    stolen(theft.version_unknown, 3, "audit.entry_malformed", 3),
    stolen(theft.line_over_long, 3, "log.line_too_long", 3),
    stolen(theft.byte_flipped, 3, "audit.chain"),
    stolen(theft.time_edited, 3, "audit.clock"),
    stolen(theft.last_entry_edited, 3, "audit.root"),
    stolen(theft.entry_dropped, 3, "audit.sequence"),
    stolen(theft.first_entry_dropped, 3, "audit.sequence"),
    stolen(theft.entry_inserted, 3, "audit.sequence"),
    stolen(theft.entry_repeated, 3, "audit.sequence"),
    stolen(theft.entries_swapped, 3, "audit.sequence"),
    stolen(theft.end_cut, 3, "audit.log_shortened"),
    stolen(theft.entry_of_another_log_s, 3, "audit.other_log"),
    stolen(theft.chain_made_good, 3, "audit.root"),
    stolen(theft.entry_taken_out_and_chain_made_good, 3, "audit.root"),
    stolen(theft.coordinator_s_entry_edited, 3, "audit.chain"),
    stolen(theft.entry_appended_unsigned, 3, "", 2),
    Kind(rewriting.unsigned_from_the_middle_on, "bank", 3, "", status=2),
    Kind(lies.clock_backwards, "bank", 3, "audit.clock"),
    Kind(lies.clock_malformed, "bank", 3, "audit.clock"),
    Kind(lies.entry_under_another_name, "bank", 3, "audit.other_log"),
    Kind(lies.log_key_of_another, "bank", 3, "audit.other_key"),
    stolen(theft.cosignatures_stripped, 3, "", 2),
    # ---- (4) --------------------------------------------------------------------------------------------------------------
    Kind(lies.approval_missing, "bank", 4, "audit.not_approved"),
    Kind(lies.own_approval_missing, "platform", 4, "audit.not_approved"),
    Kind(lies.approval_after_the_start, "bank", 4, "audit.not_approved"),
    Kind(lies.approval_of_another_job, "bank+platform", 4, "approval.other_job"),
    Kind(lies.approval_forged, "bank", 4, "audit.bad_signature"),
    Kind(lies.approval_statement_altered, "bank", 4, "audit.bad_signature"),
    Kind(lies.approval_not_canonical, "bank+platform", 4, "approval.malformed"),
    Kind(lies.rejected_and_run, "all", 4, "audit.not_approved"),
    Kind(lies.approval_with_another_peer, "all", 4, "audit.not_approved"),
    Kind(lies.approved_by_one_twice, "bank", 4, "audit.not_approved"),
    Kind(lies.directed_before_approved, "coordinator", 4, "audit.not_approved"),
    Kind(lies.specification_altered, "bank", 4, "audit.spec_mismatch"),
    Kind(lies.specification_changed_after_the_approval, "all", 4, "approval.other_job"),
    Kind(lies.specification_not_canonical, "all", 4, "spec.not_canonical"),
    Kind(lies.specification_with_an_unknown_key, "all", 4, "spec.invalid"),
    # ---- (5) --------------------------------------------------------------------------------------------------------------
    Kind(lies.job_hidden_by_a_node, "platform", 5, "", status=2),
    Kind(lies.number_malformed, "bank", 5, "audit.field"),
    Kind(lies.number_in_another_form, "bank", 5, "audit.field"),
    Kind(lies.digest_on_one_side, "platform", 5, "audit.message_differs"),
    Kind(lies.length_on_one_side, "platform", 5, "audit.message_differs"),
    Kind(lies.type_on_one_side, "bank", 5, "audit.message_differs"),
    Kind(lies.items_on_one_side, "bank", 5, "audit.message_differs"),
    Kind(lies.order_on_one_side, "bank", 5, "audit.message_differs"),
    Kind(lies.received_and_not_logged, "platform", 5, "audit.message_differs"),
    Kind(lies.sent_and_not_logged, "bank", 5, "audit.message_differs"),
    Kind(lies.received_and_never_sent, "platform", 5, "audit.never_sent"),
    Kind(lies.step_hidden_by_one_side, "bank", 5, "audit.never_sent"),
    Kind(lies.number_twice, "bank", 5, "audit.message_number"),
    Kind(lies.two_peers, "bank", 5, "audit.peer"),
    Kind(lies.messages_to_oneself, "bank", 5, "audit.peer"),
    Kind(lies.message_malformed, "bank+platform", 5, "audit.field"),
    # ---- (6) --------------------------------------------------------------------------------------------------------------
    Kind(lies.digest_on_both_sides, "bank+platform", 6, "audit.receipt_digest"),
    Kind(lies.length_on_both_sides, "bank+platform", 6, "audit.receipt_digest"),
    Kind(lies.receipt_forged, "bank", 6, "audit.bad_signature"),
    Kind(lies.receipt_missing, "bank", 6, "audit.receipt_missing"),
    Kind(lies.receipt_after_done, "bank", 6, "audit.receipt_missing"),
    Kind(lies.receipt_twice, "bank", 6, "audit.receipt_twice"),
    Kind(steps.attempt_number_used_again, "all", 6, "audit.receipt_twice"),
    Kind(lies.receipt_of_another_step, "bank", 6, "audit.receipt_digest"),
    Kind(lies.receipt_not_of_bytes, "bank", 6, "audit.receipt_digest"),
    Kind(lies.transcript_of_another_step, "bank", 6, "audit.receipt_digest"),
    Kind(lies.roles_changed, "all", 6, "audit.receipt_digest"),
    Kind(lies.report_of_another_transcript, "coordinator", 6, "audit.report_differs"),
    Kind(lies.report_of_a_failed_step, "coordinator", 6, "audit.report_differs"),
    # ---- (7) --------------------------------------------------------------------------------------------------------------
    Kind(lies.message_outside_any_job, "bank+platform", 7, "audit.order"),
    Kind(lies.disclosure_outside_any_job, "bank", 7, "audit.order"),
    Kind(lies.job_hidden_by_the_coordinator, "coordinator", 7, "", status=2),
    Kind(steps.specification_after_the_approval, "bank", 7, "audit.order"),
    Kind(steps.report_missing, "coordinator", 7, "audit.step_order"),
    Kind(steps.two_seeds, "bank", 7, "audit.commitment_twice"),
    Kind(steps.fewer_rows_committed_than_sent, "bank", 7, "audit.commitment_sizes"),
    Kind(steps.other_rows_encoded_than_shared, "bank", 7, "audit.commitment_sizes"),
    Kind(disclosing.more_rows_trained_on_than_drawn, "all", 7, "audit.commitment_sizes"),
    Kind(steps.sizes_not_committed, "bank", 7, "audit.commitment_sizes"),
    Kind(steps.other_columns_encoded_than_used, "platform", 7, "audit.commitment_sizes"),
    Kind(steps.numbers_told_otherwise, "bank+platform", 7, "audit.directive_differs"),
    Kind(steps.lookup_range_of_no_power_of_two, "all", 7, "audit.lookup_range"),
    Kind(steps.lookup_range_negative, "all", 7, "audit.lookup_range"),
    Kind(steps.coefficient_not_finite, "all", 7, "audit.coefficients"),
    Kind(disclosing.bytes_altered, "bank", 7, "audit.bytes"),
    Kind(steps.preparation_skipped, "all", 7, "audit.step_order"),
    Kind(steps.first_round_skipped, "all", 7, "audit.step_order"),
    Kind(steps.last_step_skipped, "all", 7, "audit.unfinished"),
    Kind(steps.step_repeated, "all", 7, "audit.step_order"),
    Kind(steps.rounds_swapped, "all", 7, "audit.step_order"),
    Kind(steps.attempts_backwards, "all", 7, "audit.step_order"),
    Kind(steps.step_unknown, "all", 7, "audit.step_order"),
    Kind(steps.message_left_out, "bank+platform", 7, "audit.message_order"),
    Kind(steps.message_too_many, "bank+platform", 7, "audit.message_order"),
    Kind(steps.message_of_another_step, "bank+platform", 7, "audit.message_order"),
    Kind(steps.message_of_an_unknown_type, "bank+platform", 7, "audit.message_order"),
    Kind(steps.more_bytes_than_the_items_take, "bank+platform", 7, "audit.message_order"),
    Kind(steps.more_items_than_the_job_has, "bank+platform", 7, "audit.message_order"),
    Kind(steps.messages_in_another_order, "bank+platform", 7, "audit.message_order"),
    Kind(steps.message_after_done, "bank", 7, "audit.order"),
    Kind(steps.entry_after_the_end, "bank", 7, "audit.after_end"),
    Kind(steps.another_end_after_the_end, "bank", 7, "audit.after_end"),
    stolen(theft.end_of_the_job_appended_again, 7, "audit.after_end"),
    Kind(steps.ends_that_contradict, "bank", 7, "audit.ends_differ"),
    Kind(steps.end_left_out, "bank", 7, "", status=2),
    Kind(steps.numbers_of_one_node, "bank", 7, "audit.directive_differs"),
    Kind(steps.numbers_not_the_coordinator_s, "bank+platform", 7, "audit.directive_differs"),
    Kind(steps.coefficient_too_many, "all", 7, "audit.coefficients"),
    Kind(steps.directive_missing, "coordinator", 7, "audit.report_order"),
    Kind(steps.report_before_its_directive, "coordinator", 7, "audit.report_order"),
    Kind(steps.seed_not_committed, "bank", 7, "audit.order"),
    Kind(steps.seed_committed_after_the_approval, "bank", 7, "audit.order"),
    Kind(steps.data_committed_after_the_first_message, "bank", 7, "audit.commitment_late"),
    Kind(choosing.choice_missing, "bank", 7, "audit.choice"),
    Kind(choosing.choice_twice, "platform", 7, "audit.choice"),
    Kind(choosing.method_against_the_rule, "bank+platform", 7, "audit.choice"),
    Kind(choosing.chosen_for_another_reason, "bank", 7, "audit.choice"),
    Kind(choosing.chosen_for_other_sizes, "bank", 7, "audit.choice"),
    Kind(choosing.chosen_after_the_method_began, "bank", 7, "audit.choice"),
    Kind(choosing.padding_left_out, "bank+platform", 7, "audit.message_order", needs="SharedMarks"),
    Kind(choosing.marks_left_out, "bank+platform", 7, "audit.message_order", needs="SharedMarks"),
    Kind(steps.data_not_committed, "bank", 7, "audit.commitment_missing"),
    Kind(steps.encoded_rows_not_committed, "platform", 7, "audit.commitment_missing"),
    Kind(steps.key_not_committed, "bank", 7, "audit.commitment_missing"),
    Kind(steps.data_committed_twice, "bank", 7, "audit.commitment_twice"),
    Kind(steps.specification_missing, "bank", 7, "audit.order"),
    Kind(steps.submitted_twice, "coordinator", 7, "audit.order"),
    Kind(steps.inner_products_told_otherwise, "coordinator", 7, "audit.inner_products"),
    Kind(disclosing.inner_products_altered_everywhere, "all", 7, "audit.inner_products"),
    Kind(disclosing.aggregates_sent_against_the_specification, "bank", 7, "audit.message_order", needs="Aggregates"),
    # ---- (8) --------------------------------------------------------------------------------------------------------------
    Kind(disclosing.policy_missing, "bank", 8, "", status=2),
    Kind(disclosing.policy_laxer_after_the_approval, "bank", 8, "audit.rounds"),
    Kind(disclosing.keys_under_the_policy, "platform", 8, "audit.key_bits"),
    Kind(disclosing.key_under_the_specification, "bank", 8, "audit.key_bits"),
    Kind(disclosing.intersection_under_the_policy, "bank", 8, "audit.intersection"),
    Kind(disclosing.intersection_under_the_specification, "bank+platform", 8, "audit.intersection"),
    Kind(disclosing.sample_under_the_policy, "bank+platform", 8, "audit.sample"),
    Kind(disclosing.rounds_over_the_policy, "bank", 8, "audit.rounds"),
    Kind(disclosing.bands_over_the_policy, "platform", 8, "audit.bands"),
    Kind(disclosing.more_rounds_than_approved, "all", 8, "audit.rounds"),
    Kind(disclosing.disclosed_to_a_stranger, "bank", 8, "audit.recipient"),
    Kind(disclosing.disclosed_by_another, "coordinator", 8, "audit.recipient"),
    # ---- (9) --------------------------------------------------------------------------------------------------------------
    Kind(disclosing.salt_missing, "bank", 9, "audit.salt_missing"),
    Kind(disclosing.salt_short, "bank", 9, "audit.field"),
    Kind(disclosing.salt_used_again, "bank", 9, "audit.salt_twice"),
    Kind(disclosing.totals_told_twice_and_otherwise, "bank", 9, "audit.receipt_items"),
    Kind(
        disclosing.aggregates_to_the_coordinator_altered,
        "bank+coordinator",
        9,
        "audit.disclosure_differs",
        needs="Aggregates+coordinator",
    ),
    Kind(disclosing.base_rate_only_the_coordinator_was_told_altered, "bank+coordinator", 9, "audit.disclosure_differs"),
    Kind(disclosing.rows_told_for_a_sample, "all", 9, "audit.disclosure_differs"),
    Kind(disclosing.disclosure_omitted, "bank", 9, "audit.disclosure_missing"),
    Kind(disclosing.disclosure_to_the_coordinator_omitted, "platform", 9, "audit.disclosure_missing"),
    Kind(disclosing.disclosure_added, "bank", 9, "audit.disclosure_extra"),
    Kind(disclosing.disclosure_of_something_else, "bank", 9, "audit.disclosure_clause"),
    Kind(disclosing.disclosure_count_altered, "bank", 9, "audit.disclosure_differs"),
    Kind(disclosing.disclosure_clause_altered, "bank", 9, "audit.disclosure_clause"),
    Kind(disclosing.disclosure_under_another_step, "bank", 9, "audit.disclosure_extra"),
    Kind(disclosing.set_size_altered, "bank", 9, "audit.disclosure_differs"),
    Kind(disclosing.columns_altered, "platform", 9, "audit.disclosure_differs"),
    Kind(disclosing.shared_customers_altered, "bank", 9, "audit.disclosure_differs"),
    Kind(disclosing.base_rate_altered, "bank", 9, "audit.disclosure_differs"),
    Kind(disclosing.base_rate_altered_everywhere, "bank+coordinator", 9, "audit.disclosure_differs"),
    Kind(disclosing.set_size_message_altered, "bank+platform", 7, "audit.choice"),
    Kind(disclosing.totals_omit_an_item, "bank", 9, "audit.receipt_items"),
    Kind(disclosing.totals_add_an_item, "bank", 9, "audit.receipt_items"),
    Kind(disclosing.totals_altered, "platform", 9, "audit.receipt_items"),
    Kind(disclosing.totals_name_an_item_twice, "bank", 9, "audit.receipt_items"),
    Kind(disclosing.totals_left_out, "bank", 9, "audit.receipt_items"),
    Kind(disclosing.coordinator_heard_less, "coordinator", 9, "audit.disclosure_missing"),
    Kind(disclosing.coordinator_heard_more, "coordinator", 9, "audit.disclosure_clause"),
    Kind(disclosing.coordinator_heard_otherwise, "coordinator", 9, "audit.disclosure_differs"),
    Kind(disclosing.coordinator_s_totals_altered, "coordinator", 9, "audit.receipt_items"),
    Kind(disclosing.weights_to_the_coordinator, "bank", 9, "audit.disclosure_extra"),
    Kind(disclosing.aggregates_altered, "bank", 9, "audit.disclosure_differs", needs="Aggregates"),
    Kind(disclosing.aggregates_altered_everywhere, "bank+coordinator", 9, "audit.disclosure_differs", needs="Aggregates"),
    Kind(disclosing.aggregates_against_the_specification, "bank", 9, "audit.disclosure_forbidden", needs="coordinator"),
)
"""Every kind; those of one step together."""
