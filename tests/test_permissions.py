"""Permissions: the table of options, and the topics that belong to one user."""

from __future__ import annotations

import pytest

from clarion_server.auth import ANONYMOUS, Identity
from clarion_server.auth.grants import Grants
from clarion_server.auth.permissions import Permissions
from clarion_server.options import Config, Namespace, Who

USER = Identity(user="42")
GRANTED = Identity(user="42", subscribe=Grants.parse("room:*"), publish=Grants.parse("room:*"))
OTHER = Identity(user="42", subscribe=Grants.parse("door:*"), publish=Grants.parse("door:*"))
ALL = Identity(user="42", subscribe=Grants.parse("*"), publish=Grants.parse("*"))


def permissions(**namespaces: Namespace) -> Permissions:
    return Permissions(Config(namespaces=namespaces).namespace)


@pytest.mark.parametrize(
    ("who", "allowed"),
    [
        ("everyone", [ANONYMOUS, USER, GRANTED, OTHER]),
        ("users", [USER, GRANTED, OTHER]),
        ("granted", [GRANTED]),
        ("nobody", []),
    ],
)
def test_each_option_allows_exactly_its_identities(who: Who, allowed: list[Identity]) -> None:
    subscribing = permissions(room=Namespace(subscribe=who, publish="nobody"))
    publishing = permissions(room=Namespace(subscribe="nobody", publish=who))
    for identity in (ANONYMOUS, USER, GRANTED, OTHER):
        assert subscribing.may_subscribe(identity, "room:1") == (identity in allowed)
        assert publishing.may_publish(identity, "room:1") == (identity in allowed)
        assert not subscribing.may_publish(identity, "room:1")
        assert not publishing.may_subscribe(identity, "room:1")


def test_a_grant_to_subscribe_is_none_to_publish() -> None:
    reader = Identity(user="42", subscribe=Grants.parse("*"))
    rules = permissions(room=Namespace(subscribe="granted", publish="granted"))
    assert rules.may_subscribe(reader, "room:1")
    assert not rules.may_publish(reader, "room:1")


def test_a_namespace_that_is_not_configured_has_the_options_of_default() -> None:
    rules = permissions(default=Namespace(subscribe="users"), room=Namespace(subscribe="nobody"))
    assert rules.may_subscribe(USER, "hall:1")
    assert rules.may_subscribe(USER, "lonely")
    assert not rules.may_subscribe(USER, "room:1")


@pytest.mark.parametrize("who", ["everyone", "users", "granted", "nobody"])
def test_a_user_topic_has_one_subscriber_whatever_the_options(who: Who) -> None:
    rules = permissions(user=Namespace(subscribe=who), default=Namespace(subscribe="everyone"))
    assert rules.may_subscribe(USER, "user:42")
    for topic in ("user:4", "user:421", "user:42:x", "user:", "user:None", "user:*"):
        assert not rules.may_subscribe(ALL, topic), topic
        assert not rules.may_subscribe(ANONYMOUS, topic), topic
    assert not rules.may_subscribe(ANONYMOUS, "user:42")


@pytest.mark.parametrize(
    ("who", "own"), [("everyone", True), ("users", True), ("granted", True), ("nobody", False)]
)
def test_only_its_user_publishes_to_a_user_topic_and_only_where_options_allow_it(
    who: Who, own: bool
) -> None:
    rules = permissions(user=Namespace(publish=who))
    assert rules.may_publish(ALL, "user:42") == own
    assert not rules.may_publish(ALL, "user:43")
    assert not rules.may_publish(ANONYMOUS, "user:42")


def test_a_topic_named_user_and_namespaces_like_it_are_ordinary() -> None:
    rules = permissions(default=Namespace(subscribe="everyone"))
    for topic in ("user", "users:42", "User:42", "x:user:42"):
        assert rules.may_subscribe(ANONYMOUS, topic), topic
