"""Every code that a serving node or coordinator can name, so that a figure's label is always one of a known number.

A peer may tell any code that has the form of one; told ten thousand different ones, a metrics system that made a series of each
would fall over.  So what is not in this list counts as :data:`UNKNOWN`.  A test compares the list with the source, in both
directions: a new code is added here in the change that raises it.
"""

from __future__ import annotations

UNKNOWN = "peer.unknown_code"

_BY_AREA = """
approval: invalid malformed other_job other_party other_peer
audit: bad_checkpoint bad_key bad_note bad_signature key_name key_seed not_cosigned not_signed wrong_origin
config: invalid missing_file missing_key not_toml other_identity permissions readable_by_others unknown_key unreadable
    unwritable
control: bad_field no_hello not_an_operator party_mismatch protocol_version superseded too_many_reports too_many_streams
    too_often unexpected unknown_job
coordinator: ambiguous_job bad_report cancelled folder_in_use illegal_transition job_exists node_lost not_leader
    other_coordinator rejected reports_differ stopping too_many_jobs undisclosed_count undisclosed_metrics unknown_job
    unknown_party wrong_role
curve: empty_tag expand_length points_length scalar
data: changed column_type constant_column database duplicate_column duplicate_identifiers duplicate_key empty_identifier
    identifier_type label_not_two_valued label_positive_unknown malformed_row missing_column missing_file missing_value no_rows
    not_a_number not_utf8 nothing_offered nothing_to_impute out_of_range salt too_few_rows too_many_columns too_many_levels
    too_many_rows unfit_identifier unreadable weights_shape woe_needs_label
disclosure: no_salt
drbg: bound reused seed
engine: closed cluster_files cluster_lost cluster_unreachable cluster_without_tls kind no_dask no_workers versions_differ
    worker_died worker_threads workers
file: unwritable
health: not_served path_too_long unknown_service
identity: exists invalid key_beside_keys key_file locked mismatch missing next_waits not_sealed permissions unwritable
    weak_passphrase wrong_secret
internal: error
job: ambiguous attempt_reused directive_changed ended illegal_end illegal_transition interrupted no_model not_approved
    not_waiting rejected_here spec_mismatch step_order superseded too_many too_many_attempts unknown unknown_step who
journal: receipts_differ
kept: unreadable
log: altered broken clock closed entry_malformed entry_too_large field forked in_use key line_too_long no_checkpoint number
    other_owner shortened unwritable write_failed
lookup: batch index_range indices rows table_shape wrong_count wrong_length wrong_position
merkle: consistency inclusion range
metrics: bad_address not_loopback port_in_use
node: core_dumps disk_full stopping
optimizer: bad_base_rate bad_inner_products
ot: bad_reply entries rows session_range session_reused stored_keys width
packing: plaintext_range slot_range
paillier: ciphertext_length ciphertext_not_unit ciphertext_range ciphertext_subgroup key_bits key_even key_h_s key_is_own
    key_orders key_primes key_size key_small_factor key_square lengths plaintext_range
partner: duplicate invalid next_not_added no_coordinator own_name role unknown unreadable
peer: unknown_code version_unknown
policy: bands coordinator coordinator_unknown count count_learner count_period count_step dataset_not_offered dataset_partner
    dataset_unknown disclose_coordinator disclose_feature_holder feature_is_label feature_not_offered features_max filter
    filter_queries key_kind key_not_offered key_too_short label_kind label_not_offered minimum_intersection normalise
    not_a_party own_role partner_not_allowed partner_role partner_unknown patience rounds sample
products: entry_bits entry_range shape shifts
protocol: malformed_message not_reduced unexpected_message wrong_count wrong_length wrong_position
psi: base base_point batch_size bin_overflow duplicate_identifier empty_set filter_digest filter_key_age filter_malformed
    filter_request filter_state filter_values identifier_not_text impossible_size key_lengths less_than_declared low_order_point
    marked_padding more_than_declared non_canonical_point not_ascending not_sorted order padding repeated_element scalar secret
    store_failed tags too_few_shared too_many_elements trees wrong_count wrong_length wrong_position
receipt: parties payload_digest sender
relay: absent bad_key bad_seal busy disabled ended exhausted expired left malformed met_twice no_room not_running oversized
    protocol_version stalled stopping superseded truncated wrong_identity
scoring: bad_aggregates bad_band one_class
seed: unreadable
spec: empty invalid no_publisher not_a_number not_a_party not_canonical too_large
state: in_use object_array permissions scratch unreadable unwritable write_failed
store: backup_failed bad_url in_use newer_schema no_database no_driver other_owner read_failed unusable write_failed
training: bad_directive base_rate directives_differ label_missing no_mask_left one_class preconditioner_range rows_differ
    too_many_columns weight_range
transport: bad_ack bad_address bad_certificate bad_resume bad_token cannot_listen certificate_expired certificate_expires clock
    closed foreign_session no_partners no_route no_stream not_accepted not_started not_tls out_of_order oversized party_mismatch
    port_in_use protocol_version refused repeats session_lost silent stopping superseded timeout too_many_streams too_often
    unreachable window_exceeded withdrawn wrong_certificate wrong_session wrong_step
witness: forked refused rolled_back unknown unreadable unwritable
"""


def _read(text: str) -> frozenset[str]:
    found, area = set(), ""
    for line in text.strip().splitlines():
        if not line.startswith(" "):
            area, _, line = line.partition(": ")
        found |= {f"{area}.{what}" for what in line.split()}
    return frozenset(found)


CODES = _read(_BY_AREA)


def label(code: str) -> str:
    """``code`` where it is one of ours, :data:`UNKNOWN` otherwise."""
    return code if code in CODES else UNKNOWN
