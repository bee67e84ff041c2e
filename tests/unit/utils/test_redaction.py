"""Secrets that never show, and texts that must stay as they are."""

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils import redaction
from utils.errors import StoreError, UnknownNameError
from utils.failures import Failure
from utils.redaction import HIDDEN, Sealed, redacted, remember, revealed, sealed, sealed_url


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    monkeypatch.setattr(redaction, "_known", set())


URLS = {
    "https://h/x.tif?X-Amz-Expires=3&X-Amz-Signature=abc0": "https://h/x.tif?X-Amz-Expires=3&X-Amz-Signature=***",
    "https://h/x.tif?X-Amz-Credential=AK%2F1&n=2": "https://h/x.tif?X-Amz-Credential=***&n=2",
    "https://h/x.tif?X-Goog-Signature=abc": "https://h/x.tif?X-Goog-Signature=***",
    "https://a.blob.core.windows.net/c/x?sv=2&se=3&sig=Zz%3D&sr=b": (
        "https://a.blob.core.windows.net/c/x?sv=2&se=3&sig=***&sr=b"
    ),
    "https://user:pass@h/x": "https://user:***@h/x",
    "https://user:p@ss@h/x": "https://user:***@h/x",
    "https://token@h/x": "https://***@h/x",
    "HTTPS://h/x?API_KEY=1": "HTTPS://h/x?API_KEY=***",
    "s3://user:pass@bucket/x": "s3://user:***@bucket/x",
}
PLAIN = [
    "s3://bucket/x.tif", "https://h:8080/a@b/x.tif?list-type=2&prefix=a", "postgresql://user@h/db", "a@b", "", "x?y=1",
    "storage_options: unknown 'x'; known: aws_access_key_id, aws_secret_access_key", "aws_access_key_id is ${KEY}",
]  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_secrets_of_urls_are_hidden_and_kept(url):
    held = sealed_url(url)
    assert held == URLS[url]
    assert revealed(held) == url
    assert redacted(f"GET {url} failed") == f"GET {URLS[url]} failed"
    assert sealed_url(held) == held
    assert revealed(sealed_url(held)) == url


@pytest.mark.parametrize("text", PLAIN)
def test_other_texts_stay_as_they_are(text):
    assert redacted(text) == text
    assert type(sealed_url(text)) is str
    assert revealed(text) == text


@pytest.mark.parametrize(
    "text",
    [
        'aws_secret_access_key: "abcdef"', "AWS_SESSION_TOKEN=abcdef", "{'azure_storage_account_key': 'abcdef'}",
        "aws_access_key_id = abcdef, x", '"google_service_account_key": "abcdef"',
    ],
)  # fmt: skip
def test_values_of_secret_options_are_hidden(text):
    assert "abcdef" not in redacted(text)
    assert HIDDEN in redacted(text)


def test_a_sealed_value_shows_nowhere_and_travels():
    held = sealed("a secret of some length")
    for shown in (str(held), repr(held), f"{held}", "%s" % held, json.dumps({"x": held}), f"{[held]}", held + "!"):  # noqa: UP031
        assert "secret" not in shown
    for copied in (pickle.loads(pickle.dumps(held)), copy.deepcopy(held), copy.copy(held)):  # noqa: S301
        assert isinstance(copied, Sealed)
        assert revealed(copied) == "a secret of some length"
    assert redacted("it is a secret of some length.") == f"it is {HIDDEN}."


def test_a_process_that_unpickles_a_secret_keeps_it_out_of_messages(monkeypatch):
    held = pickle.dumps([sealed("first secret here"), sealed_url("https://u:second-secret@h/")])
    monkeypatch.setattr(redaction, "_known", set())
    pickle.loads(held)  # noqa: S301
    assert redacted("first secret here, second-secret") == "***, ***"


@given(st.text(min_size=8, max_size=40), st.text(max_size=20), st.text(max_size=20))
def test_a_known_secret_is_in_no_message(secret, before, after):
    remember([secret])
    if HIDDEN not in secret:
        assert secret not in redacted(before + secret + after) or secret in HIDDEN * 20


def test_short_words_are_no_secrets():
    remember(["test", "k"])
    assert redacted("a test of k") == "a test of k"


def test_errors_and_failures_hold_no_secret():
    remember(["wJalrXUtnFEMI/K7MDENG"])
    for error in (
        StoreError("by wJalrXUtnFEMI/K7MDENG or wJalrXUtnFEMI%2FK7MDENG"),
        UnknownNameError("option", "wJalrXUtnFEMI/K7MDENG", []),
    ):
        assert "MDENG" not in str(error)
        assert "MDENG" not in repr(error)
        assert str(pickle.loads(pickle.dumps(StoreError("x")))) == "x"  # noqa: S301
    assert Failure.of("node", OSError("https://u:password@h/ wJalrXUtnFEMI/K7MDENG")).message == "https://u:***@h/ ***"
