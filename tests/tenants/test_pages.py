"""Signing in, and whose page it is."""

import pytest
from django.test import Client

from tenants.models import User
from tests.cast import House, Person, someone


def sign_in(client: Client, email: str, password: str) -> int:
    return client.post("/accounts/login/", {"login": email, "password": password}).status_code


def test_a_person_signs_in_with_email_and_password(house: House) -> None:
    client = Client()
    assert client.get("/accounts/login/").status_code == 200
    assert sign_in(client, house.owner.user.email, "wrong") == 200
    assert client.get(f"/t/{house.slug}/").status_code == 302
    assert sign_in(client, house.owner.user.email.upper(), house.owner.password) == 302
    assert client.get(f"/t/{house.slug}/").status_code == 200


def test_nobody_signs_up_alone(database: None) -> None:
    email = f"new-{someone('x').id}@example.org"
    Client().post("/accounts/signup/", {"email": email, "password1": "correct horse battery"})
    assert not User.objects.filter(email=email).exists()
    assert sign_in(Client(), email, "correct horse battery") == 200


def test_a_page_sends_who_is_not_signed_in_to_the_door(house: House) -> None:
    answer = Client().get(f"/t/{house.slug}/?x=1")
    assert answer.status_code == 302
    assert answer["location"] == f"/accounts/login/?next=/t/{house.slug}/%3Fx%3D1"


def test_a_strangers_page_is_not_there(house: House, stranger: Person) -> None:
    there = stranger.client.get(f"/t/{house.slug}/")
    nowhere = stranger.client.get("/t/nowhere/")
    assert there.status_code == nowhere.status_code == 404
    assert house.slug.encode() not in there.content


@pytest.mark.parametrize(
    "path", ["/accounts/login/", "/t/nowhere/", "/nothing", "/v1/conversations", "/health"]
)
def test_every_answer_carries_its_request_id(database: None, path: str) -> None:
    first, second = Client().get(path), Client().get(path)
    assert first["request-id"].startswith("req_")
    assert first["request-id"] != second["request-id"]


def test_a_viewer_may_look_but_not_change(house: House) -> None:
    assert house.viewer.client.get(f"/t/{house.slug}/credentials/").status_code == 200
    answer = house.viewer.client.post(
        f"/t/{house.slug}/credentials/", {"kind": "api_key", "name": "X", "secret": "sk-x"}
    )
    assert answer.status_code == 403
