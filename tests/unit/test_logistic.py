"""Sealed logistic regression against floating point and scikit-learn, and what each message may show."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from node.crypto.paillier_keys import generate_key
from node.engine import InlineEngine, PoolEngine
from node.errors import DataError, PeerError, UsageError
from node.limits import LIMITS, Limits
from node.protocols.preparation import prepare, round_base_rate
from node.protocols.residuals import sigmoid_table
from node.protocols.rings import signed
from node.protocols.scales import DIRECTION_SCALE, SHORT_BITS
from node.protocols.scoring import evaluate, own_scores
from node.protocols.training import Prepared, RoundShares, operands_under, parse_base_rate
from protos import peer_pb2 as pb
from tests.training import ROLES, Training, toy


@pytest.fixture(scope="module")
def trained() -> tuple[Training, NDArray[np.float64]]:
    left, right, label = toy(600, (3, 4))
    training = Training(left, right, label, rounds=6)
    weights, _ = training.train()
    return training, weights


def pooled(training: Training) -> NDArray[np.float64]:
    return np.concatenate([training.left, training.right], axis=1) / 1024


def test_directions_and_inner_products_match_floating_point(trained: tuple[Training, NDArray[np.float64]]) -> None:
    training, _ = trained
    x = np.concatenate([np.ones((600, 1)), pooled(training)], axis=1)
    base_rate = float(training.prepared[0].base_rate)
    start = np.zeros(8)
    start[0] = np.log(base_rate / (1 - base_rate))
    gradient = x.T @ (1 / (1 + np.exp(-x @ start)) - training.label) / 600
    p = np.zeros((8, 8))
    p[:4, :4] = np.array(training.prepared[0].preconditioner) / 2**20
    p[4:, 4:] = np.array(training.prepared[1].preconditioner) / 2**20
    left, right = training.earlier[0][0], training.earlier[1][0]
    opened = [signed(a + b, SHORT_BITS) for a, b in zip(left.direction, right.direction, strict=True)]
    direction = np.array([float(Fraction(v, 600 << DIRECTION_SCALE)) for v in opened])
    assert direction == pytest.approx(p @ gradient, abs=1e-3)
    assert left.inner_products == pytest.approx([gradient @ p @ gradient], rel=1e-4)


def test_the_model_is_scikit_learns(trained: tuple[Training, NDArray[np.float64]]) -> None:
    training, weights = trained
    x = pooled(training)
    oracle = LogisticRegression(C=1 / (0.001 * 600), tol=1e-9, max_iter=1000).fit(x, training.label)
    ours, theirs = x @ weights[1:] + weights[0], oracle.decision_function(x)
    loss, best = (log_loss(training.label, 1 / (1 + np.exp(-z))) for z in (ours, theirs))
    assert loss - best < 3e-4
    assert abs(roc_auc_score(training.label, ours) - roc_auc_score(training.label, theirs)) < 2e-3


def test_a_strong_penalty_is_scikit_learns_too() -> None:
    left, right, label = toy(600, (3, 4))
    training = Training(left, right, label, rounds=5, l2=Fraction(1, 2))
    weights, _ = training.train(tolerance=1e-7)
    oracle = LogisticRegression(C=1 / (0.5 * 600), tol=1e-9, max_iter=1000).fit(pooled(training), label)
    assert weights[1:] == pytest.approx(oracle.coef_[0], abs=0.01)
    assert weights[0] == pytest.approx(oracle.intercept_[0], abs=0.02)


def test_short_order_keys_train_the_same_model() -> None:
    """Other keys and masks; what a party stores between two steps reads back as it was."""
    left, right, label = toy(200, (2, 3), seed=3)
    weights = []
    for kind in ("standard", "short-order"):
        training = Training(left, right, label, rounds=3, key_kind=kind, lookup_entries=256)  # type: ignore[arg-type]
        weights.append(training.train()[0])
        for prepared in training.prepared:
            again = Prepared.from_arrays(prepared.to_arrays())
            assert (again.own, again.peer) == (prepared.own, prepared.peer)
            assert (again.own.public.kind, again.peer.kind) == (kind, kind)
    assert weights[0] == pytest.approx(weights[1], abs=0.05)


def test_no_penalty_at_all() -> None:
    left, right, label = toy(600, (3, 4))
    training = Training(left, right, label, rounds=6, l2=Fraction(0))
    weights, _ = training.train()
    oracle = LogisticRegression(C=np.inf, tol=1e-9, max_iter=1000).fit(pooled(training), label)
    ours, theirs = (log_loss(label, 1 / (1 + np.exp(-z))) for z in (
        pooled(training) @ weights[1:] + weights[0], oracle.decision_function(pooled(training))))  # fmt: skip
    assert ours - theirs < 3e-4


def test_both_parties_get_their_own_weights_and_the_other_share_is_uniform(trained: tuple[Training, Any]) -> None:
    """The shares of the weights that cross are read once; each alone says nothing."""
    training, weights = trained
    crossed = [payload for kind, _, payload in training.sent if kind == "WeightShares"]
    assert len(crossed) == 2
    shares = np.frombuffer(b"".join(pb.WeightShares.FromString(p).values for p in crossed), dtype=np.uint8)
    assert len(np.unique(shares.reshape(-1, 24)[:, 8:16].copy().view("<u8"))) == len(shares) // 24
    assert not np.any(np.isclose(weights, 0))


UNIFORM = {
    "MaskedWeights": None,
    "MaskedResiduals": None,
    "MaskedGradients": None,
    "LookupTables": None,
    "OtColumns": None,
}


@pytest.mark.parametrize("kind", sorted(UNIFORM))
def test_masked_messages_are_uniform(trained: tuple[Training, Any], kind: str) -> None:
    training, _ = trained
    data = b"".join(getattr(pb, kind).FromString(payload).values for name, _, payload in training.sent if name == kind)
    octets = np.frombuffer(data, dtype=np.uint8)
    if kind == "MaskedWeights":  # k-bit words in whole bytes: the last one may be partly empty
        size = (training.prepared[0].score_bits + 7) // 8
        octets = octets.reshape(-1, size)[:, : training.prepared[0].score_bits // 8].ravel()
    if kind == "MaskedResiduals":  # the difference of two 63-bit numbers: its highest byte is not uniform
        octets = octets.reshape(-1, 8)[:, :7].ravel()
    assert len(octets) >= 80
    cells = octets if len(octets) > 5000 else octets >> 5
    counts = np.bincount(cells, minlength=256 if len(octets) > 5000 else 8)
    assert chisquare(counts).pvalue > 1e-6


def test_first_residuals_hide_the_label(trained: tuple[Training, Any]) -> None:
    """e - r tells no label: the two classes' words have the same distribution (their low 40 bits are uniform)."""
    training, _ = trained
    payload = next(p for name, _, p in training.sent if name == "FirstResiduals")
    words = np.frombuffer(pb.FirstResiduals.FromString(payload).values, dtype="<i8")
    for value in (0, 1):
        low = (words[training.label == value].view("<u8") >> np.uint64(16)).astype(np.uint64) & np.uint64(7)
        assert chisquare(np.bincount(low.astype(np.int64), minlength=8)).pvalue > 1e-6
    means = [words[training.label == value].astype(float).mean() / 2**63 for value in (0, 1)]
    assert abs(means[0] - means[1]) < 0.15


def test_every_message_is_of_the_tables_kinds(trained: tuple[Training, Any]) -> None:
    """In plaintext only sizes, the base rate, inner products, directives and the shares that open own weights cross."""
    training, _ = trained
    kinds = {name for name, _, _ in training.sent}
    assert kinds == {
        "PaillierKey", "JobFigures", "ColumnMasks", "ColumnProducts", "RowMasks", "RowProducts", "PreconditionerMasks",
        "PreconditionerProducts", "BaseOtChoices", "BaseOtReplies", "DirectiveEcho", "FirstResiduals", "MaskedResiduals",
        "MaskedGradients",
        "MaskedWeights", "OtColumns", "LookupTables", "DotOperands", "DotResults", "InnerProductParts", "WeightShares",
    }  # fmt: skip


def test_parts_of_inner_products_differ_but_sum(trained: tuple[Training, Any]) -> None:
    training, _ = trained
    parts = [(side, pb.InnerProductParts.FromString(p).values) for name, side, p in training.sent if name == "InnerProductParts"]
    lefts, rights = (b"".join(v for s, v in parts if s == side) for side in (0, 1))
    assert len(lefts) == len(rights)
    for i in range(0, len(lefts), 24):
        left, right = (int.from_bytes(half[i : i + 24], "little") for half in (lefts, rights))
        # cut by 56 bits, so that 136 uniform bits remain in each part; the sum is a small number
        assert abs(signed(left + right, 192)) < 2**80
        assert min(left, 2**192 - left).bit_length() > 60


def test_the_same_seeds_give_the_same_bytes_and_others_do_not() -> None:
    left, right, label = toy(40, (2, 2), seed=4)

    def messages(seeds: Any) -> list[tuple[str, int, bytes]]:
        training = Training(left, right, label, rounds=2, seeds=seeds)
        training.train()
        return training.sent

    first, again = messages(lambda role: role.encode().ljust(32)), messages(lambda role: role.encode().ljust(32))
    other = messages(lambda role: role.encode().ljust(32, b"!"))
    assert first == again
    public = {"JobFigures"}
    plain = [(a, b) for a, b in zip(first, other, strict=False) if a[0] not in public and a[0] != "DirectiveEcho"]
    assert all(a[2] != b[2] for a, b in plain if a[0] == b[0])


def test_a_pool_of_processes_gives_the_same_bytes() -> None:
    left, right, label = toy(40, (2, 2), seed=4)
    inline = Training(left, right, label, rounds=2)
    inline.prepare().results()
    pool = PoolEngine(2)
    try:
        pooled_run = Training(left, right, label, rounds=2, engine=pool)
        pooled_run.prepare(timeout=120).results()
    finally:
        pool.close()
    assert pooled_run.sent == inline.sent


def test_a_round_that_runs_again_uses_another_mask() -> None:
    left, right, label = toy(60, (2, 3), seed=2)
    training = Training(left, right, label, rounds=2)
    training.prepare().results()
    first = training.round(1, (), 2.0)
    first.results()
    training.earlier[0].clear()
    training.earlier[1].clear()
    again = training.round(1, (), 2.0, attempt=1)
    again.results()
    for side in ("left_sent", "right_sent"):
        pairs = zip(getattr(first, side), getattr(again, side), strict=True)
        assert all(a[1] != b[1] for a, b in pairs if a[0] != "DirectiveEcho")
    assert first.left.inner_products == pytest.approx(again.left.inner_products, rel=1e-3)


def test_a_second_preparation_goes_on_with_the_rounds_that_are_done() -> None:
    """Other keys, masks and transfers in the middle of a training; the model is the uninterrupted one's."""
    left, right, label = toy(200, (2, 3), seed=3)
    training = Training(left, right, label, rounds=3, key_bits=768)
    training.prepare().results()
    training.round(1, (), 2.0).results()
    training.round(2, (0.8,), 8.0).results()
    old = [prepared.own.public.n for prepared in training.prepared]
    undisturbed = training.round(3, (0.7, 0.3), 8.0)
    undisturbed.results()
    for side in (0, 1):
        training.earlier[side].pop()
        # What is stored between two steps is what the next one reads.
        training.earlier[side][:] = [RoundShares.from_arrays(shares.to_arrays()) for shares in training.earlier[side]]
    training.prepare(attempt=1).results()
    assert not set(old) & {prepared.own.public.n for prepared in training.prepared}
    resumed = training.round(3, (0.7, 0.3), 8.0, slot=2, attempt=1)
    resumed.results()
    counts = {kind: sum(1 for sent, _ in resumed.left_sent if sent == kind) for kind in ("DotOperands", "DotResults")}
    assert counts == {"DotOperands": 1, "DotResults": 1}
    operands = next(payload for kind, payload in resumed.left_sent if kind == "DotOperands")
    assert pb.DotOperands.FromString(operands).count == 3 * 6, "all three directions, once more under the new key"
    assert resumed.left.inner_products == resumed.right.inner_products
    # Three standard deviations of what lookups of 64 entries and scores of 24 bits leave to chance on 200 rows.
    assert resumed.left.inner_products == pytest.approx(undisturbed.left.inner_products, rel=0.06, abs=1e-9)
    stored = [[RoundShares.from_arrays(shares.to_arrays()) for shares in training.earlier[side]] for side in (0, 1)]
    for mine, theirs, prepared in ((0, 1, training.prepared[0]), (1, 0, training.prepared[1])):
        # Each kept ciphertext opens, under the key of its owner, to that owner's share.
        rows = operands_under(prepared.peer.n, stored[mine])
        for shares, row in zip(training.earlier[theirs], rows, strict=True):
            assert row is not None
            opened = training.prepared[theirs].keys.decryptor.decrypt(row)
            assert [int(value) for value in opened] == list(shares.direction)


def test_masks_run_out_with_a_clear_error() -> None:
    left, right, label = toy(40, (1, 1))
    training = Training(left, right, label, rounds=1)
    training.prepare().results()
    with pytest.raises(UsageError) as caught:
        training.round(1, (), 2.0, attempt=2).results()
    assert caught.value.code == "training.no_mask_left"


@pytest.mark.parametrize(
    ("coefficients", "lookup_range"),
    [((float("nan"),), 4.0), ((1e300,), 4.0), ((0.0,), 4.0), ((), 4.0), ((1.0,), 3.0), ((1.0,), float("inf")), ((1.0,), -4.0)],
)
def test_unreasonable_directions_are_refused(coefficients: tuple[float, ...], lookup_range: float) -> None:
    left, right, label = toy(40, (1, 1))
    training = Training(left, right, label, rounds=2)
    training.prepare().results()
    training.round(1, (), 2.0).results()
    with pytest.raises(UsageError) as caught:
        training.round(2, coefficients, lookup_range).results()
    assert caught.value.code == "training.bad_directive"


def test_a_coordinator_that_tells_the_nodes_different_directions_is_noticed() -> None:
    left, right, label = toy(40, (1, 1))
    training = Training(left, right, label, rounds=2)
    training.prepare().results()
    training.round(1, (), 2.0).results()

    def other(index: int, kind: str, payload: bytes) -> list[tuple[str, bytes]]:
        if kind == "DirectiveEcho":
            payload = pb.DirectiveEcho(coefficients=[0.5], lookup_range=8.0).SerializeToString()
        return [(kind, payload)]

    outcome = training.round(2, (1.0,), 8.0, tamper_left=other, timeout=5)
    assert isinstance(outcome.right_error, PeerError)
    assert outcome.right_error.code == "training.directives_differ"


@pytest.mark.parametrize(
    ("kind", "change", "code"),
    [
        ("PaillierKey", {"bits": 1024}, "paillier.key_size"),
        ("JobFigures", {"rows": 41}, "training.rows_differ"),
        ("JobFigures", {"columns": 0}, "training.too_many_columns"),
        ("JobFigures", {"columns": 1_000_000}, "training.too_many_columns"),
        ("JobFigures", {"base_rate": "1.5"}, "training.base_rate"),
        ("JobFigures", {"base_rate": "0.1234567"}, "training.base_rate"),
    ],
)
def test_untrue_figures_are_refused(kind: str, change: dict[str, Any], code: str) -> None:
    left, right, label = toy(40, (1, 1))

    def tamper(index: int, name: str, payload: bytes) -> list[tuple[str, bytes]]:
        if name == kind:
            message = getattr(pb, kind).FromString(payload)
            for field, value in change.items():
                setattr(message, field, value)
            payload = message.SerializeToString()
        return [(name, payload)]

    outcome = Training(left, right, label, rounds=1).prepare(tamper_left=tamper, timeout=10)
    assert isinstance(outcome.right_error, PeerError)
    assert outcome.right_error.code == code


def test_the_first_base_rate_is_two_digits() -> None:
    label = np.zeros(10_000, dtype=np.int8)
    label[:2216] = 1
    assert round_base_rate(label) == "0.22"
    label[:] = 0
    label[:12] = 1
    assert round_base_rate(label) == "0.0012"
    label[:] = 1
    label[0] = 0
    assert round_base_rate(label) == "0.99"
    assert parse_base_rate("0.0012") == Fraction(12, 10_000)
    with pytest.raises(DataError) as caught:
        round_base_rate(np.ones(5, dtype=np.int8))
    assert caught.value.code == "training.one_class"


def test_state_survives_storage_and_does_not_print(trained: tuple[Training, Any]) -> None:
    training, _ = trained
    for side in (0, 1):
        prepared = training.prepared[side]
        again = Prepared.from_arrays(prepared.to_arrays())
        for name, array in prepared.to_arrays().items():
            assert np.array_equal(array, again.to_arrays()[name]), name
        shares = training.earlier[side][1]
        restored = RoundShares.from_arrays(shares.to_arrays())
        assert restored == shares
        text = repr(prepared) + repr(shares) + repr(prepared.keys)
        for secret in (prepared.own.p, prepared.own.q, shares.direction[0], prepared.score_masks[0][0]):
            assert str(int(secret)) not in text


def test_the_sigmoid_table_is_the_sigmoid() -> None:
    table = sigmoid_table(8.0, 64).astype(float) / 2**16
    x = (np.where(np.arange(4096) < 2048, np.arange(4096), np.arange(4096) - 4096) + 0.5) * 16 / 4096
    plain = 1 / (1 + np.exp(-x))
    assert np.abs(table - plain).max() < 3e-4
    # smoothed over a window of 16 / 64, the corrected table is closer to the sigmoid than an uncorrected one
    order = np.argsort(x)
    kernel = np.full(65, 1 / 64)
    kernel[[0, -1]] /= 2
    inner = slice(300, -300)
    corrected = np.convolve(table[order], kernel, "same")[inner]
    uncorrected = np.convolve(plain[order], kernel, "same")[inner]
    assert np.abs(corrected - plain[order][inner]).max() < np.abs(uncorrected - plain[order][inner]).max() / 5


def test_evaluation_by_bands(trained: tuple[Training, NDArray[np.float64]]) -> None:
    training, weights = trained
    blocks = (weights[:4], weights[4:])

    def half(role: str, ch: Any) -> Any:
        side = ROLES.index(role)
        return evaluate(
            ch,
            plan=training.plan(role),
            prepared=training.prepared[side],
            matrix=training.left if side == 0 else training.right,
            weights=blocks[side],
            label=training.label if side == 0 else None,
            bands=40,
            lookup_range=16.0,
            share_aggregates=True,
            drbg=training.drbg(role, "evaluate"),
            limits=LIMITS,
        )

    left, right = training.run(half).results()
    z = pooled(training) @ weights[1:] + weights[0]
    assert left.auc == pytest.approx(roc_auc_score(training.label, z), abs=0.005)
    assert left.log_loss == pytest.approx(log_loss(training.label, 1 / (1 + np.exp(-z))), abs=0.01)
    assert right.auc == pytest.approx(left.auc, abs=1e-6)
    assert right.gains == []
    exact = own_scores(training.left, blocks[0]) + own_scores(training.right, blocks[1])
    assert exact / 2**34 == pytest.approx(z, abs=1e-6)


def test_too_many_columns_are_refused_before_anything_is_sent() -> None:
    left, right, label = toy(40, (3, 1))
    training = Training(left, right, label, rounds=1)
    outcome = training.run(
        lambda role, ch: prepare(
            ch,
            **training.halves(role),
            own=generate_key(training.key_bits, training.drbg(role, "prepare").stream("paillier key")),
            drbg=training.drbg(role, "prepare"),
            engine=InlineEngine(),
            limits=Limits(columns=2),
        ),
        timeout=5,
    )
    assert isinstance(outcome.left_error, DataError)
    assert outcome.left_error.code == "training.too_many_columns"
    assert outcome.left_sent == []
