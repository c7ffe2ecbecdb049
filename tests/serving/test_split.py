import hashlib
import math

from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.rollout.plane import Split
from kfm_serving.split import bucket, canary_bucket_count, choose_version, request_key

ratios = st.floats(0, 1)
keys = st.binary(max_size=64)


def split(ratio, stable=1):
    return Split(generation=1, stable=stable, canary=2, canary_ratio=ratio)


@given(keys)
def test_bucket_is_the_first_eight_bytes_of_sha256_modulo_ten_thousand(key):
    assert bucket(key) == int(hashlib.sha256(key).hexdigest()[:16], 16) % 10_000


@given(keys, ratios, ratios)
def test_a_key_never_leaves_the_canary_when_its_share_grows(key, a, b):
    low, high = sorted((a, b))
    assert choose_version(split(low), key) == 1 or choose_version(split(high), key) == 2


@given(ratios)
def test_shares_of_the_two_arms_sum_to_one_and_follow_the_ratio(ratio):
    canary = canary_bucket_count(ratio)
    assert 0 <= canary <= 10_000
    assert abs(canary / 10_000 - ratio) <= 0.5 / 10_000


@given(keys)
def test_no_share_sends_nothing_and_a_full_share_everything_to_the_canary(key):
    assert choose_version(split(0.0), key) == 1
    assert choose_version(split(1.0), key) == 2


@given(keys, ratios)
def test_without_a_stable_version_the_rest_is_nobodys(key, ratio):
    chosen = choose_version(split(ratio, stable=None), key)
    assert chosen == (2 if bucket(key) < canary_bucket_count(ratio) else None)


@given(st.sampled_from([0.01, 0.1, 0.25, 0.5]), st.integers(0, 2**32))
def test_observed_share_is_within_five_standard_errors_of_a_binomial(ratio, salt):
    count = 2000
    hits = sum(choose_version(split(ratio), f"{salt}/{k}".encode()) == 2 for k in range(count))
    assert abs(hits - count * ratio) <= 5 * math.sqrt(count * ratio * (1 - ratio)) + 1


def test_key_is_the_header_and_else_the_body():
    assert request_key({"x-kfm-key": "farm-7"}, b"body") == b"farm-7"
    assert request_key({}, b"body") == hashlib.sha256(b"body").digest()
    assert request_key({"x-request-id": "made up by the proxy"}, b"body") == request_key(
        {}, b"body"
    )
