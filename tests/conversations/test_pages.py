"""The pages as a browser without scripts gets them, each of them also as a stranger."""

import re
import socket
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test import Client
from django.urls import get_resolver
from django.utils import timezone
from lxml import html as lxml_html

from conversations import history
from conversations.leases import release_lease
from conversations.models import Conversation
from conversations.surroundings import label_of
from tenants.acts import Act
from tenants.context import tenant_context
from tenants.drafts import CredentialDraft
from tenants.invitations import invite
from tenants.models import ApiKey, AuditEvent, Credential
from tenants.roles import Role
from tests.cast import House, Person
from tests.conversations.stage import Hands, say


def page(client: Client, path: str, status: int = 200) -> Any:
    answer = client.get(path)
    assert answer.status_code == status, answer.content[:300]
    return lxml_html.fromstring(answer.content)


def text_of(element: Any) -> str:
    return " ".join(element.text_content().split())


def talk(
    person: Person,
    text: str = "hello",
    answer: str = "**Good** day.\n\nBye",
    conversation: UUID | None = None,
) -> UUID:
    """A turn that was answered, in a new conversation or in this one; the conversation's id."""
    hands = Hands.claiming(say(person.caller, text, conversation))
    hands.text(answer)
    hands.finish()
    release_lease(hands.runner, hands.lease)
    return hands.claim.conversation


def credential(person: Person, **more: Any) -> Credential:
    given = {"name": "Mine", "kind": "api_key", "secret": "sk-test-1234567890"} | more
    with tenant_context(person.caller.tenant_id):
        return Credential.objects.all().create_for(person.caller, CredentialDraft.checked(**given))


# Finding one's way ------------------------------------------------------------------------------------------


def test_home_leads_to_the_one_tenant(house: House) -> None:
    answer = house.member.client.get("/")
    assert (answer.status_code, answer.headers["location"]) == (302, f"/t/{house.slug}/")


def test_home_asks_who_is_in_several_tenants(house: House, stranger: Person) -> None:
    house.join(Role.MEMBER, stranger.user)
    links = page(stranger.client, "/").xpath("//a/@href")
    assert f"/t/{house.slug}/" in links and f"/t/{stranger.caller.tenant_slug}/" in links


def test_who_is_not_signed_in_signs_in_and_comes_back(house: House) -> None:
    path = f"/t/{house.slug}/c/{uuid4()}/"
    answer = Client().get(path)
    assert answer.status_code == 302 and answer.headers["location"].endswith(f"?next={path}")
    form = {"login": house.member.user.email, "password": house.member.password, "next": path}
    answer = Client().post("/accounts/login/", form)
    assert (answer.status_code, answer.headers["location"]) == (302, path)


@pytest.mark.parametrize("path", ["/accounts/login/", "/accounts/signup/", "/accounts/password/reset/"])
def test_the_entrance_is_in_our_clothes(house: House, path: str) -> None:
    found = page(Client(), path)
    assert found.xpath("//main[@class='lone']") and found.xpath("//link[contains(@href, 'tokens.css')]")


def test_every_page_of_a_tenant_is_nothing_to_a_stranger(house: House, stranger: Person) -> None:
    conversation = talk(house.member)
    mine = credential(house.member)
    with tenant_context(house.id):
        invitation, _token = invite(house.owner.caller, "viewer")
        key, _text = ApiKey.objects.issue(house.member.membership, "Mine")
    given = {
        "slug": house.slug,
        "conversation_id": str(conversation),
        "credential_id": str(mine.id),
        "key_id": str(key.id),
        "number": "1",
        "member_id": str(house.member.membership.id),
        "invitation_id": str(invitation.id),
    }
    routes = [str(route.pattern) for route in get_resolver("conversations.urls").url_patterns]
    tenant_routes = [route for route in routes if route.startswith("t/")]
    assert len(tenant_routes) >= 6
    for route in tenant_routes:
        path = "/" + re.sub(r"<\w+:(\w+)>", lambda found: given[found[1]], route)
        for call in (stranger.client.get, stranger.client.post):
            assert call(path).status_code == 404, path
        other = path.replace(house.slug, stranger.caller.tenant_slug)
        if any(own in other for name, own in given.items() if name.endswith("_id")):
            assert stranger.client.get(other).status_code in (404, 405), other
            assert stranger.client.post(other, {"name": "Mine"}).status_code in (404, 405), other
    with tenant_context(house.id):
        assert Credential.objects.filter(id=mine.id).exists()


def test_another_members_conversation_is_not_there(house: House) -> None:
    page(house.owner.client, f"/t/{house.slug}/c/{talk(house.member)}/", status=404)


# Talking ----------------------------------------------------------------------------------------------------


def test_an_empty_page_offers_first_steps(house: House) -> None:
    found = page(house.member.client, f"/t/{house.slug}/")
    assert len(found.xpath("//button[@data-prompt]")) == 4
    [dock] = found.xpath("//*[@id='thread']")
    assert (dock.get("data-conversation"), dock.get("data-seq")) == ("", "0")
    assert dock.get("data-live") == f"/t/{house.slug}/live"


def test_a_conversation_is_shown_as_it_stands(house: House) -> None:
    conversation = talk(house.member, "hello <b>", "**Good** day.\n\nBye")
    found = page(house.member.client, f"/t/{house.slug}/c/{conversation}/")
    [turn] = found.xpath("//article[@class='turn']")
    assert turn.get("data-state") == "completed"
    assert text_of(turn.xpath(".//*[@class='bubble']")[0]) == "hello <b>"
    assert text_of(turn.xpath(".//*[@class='parts']")[0]) == "Good day. Bye"
    [dock] = found.xpath("//*[@id='thread']")
    assert dock.get("data-conversation") == str(conversation) and dock.get("data-state") == "idle"


def test_a_page_goes_on_from_its_last_event(house: House) -> None:
    hands = Hands.claiming(say(house.member.caller))
    hands.text("One ", "two")
    found = page(house.member.client, f"/t/{house.slug}/c/{hands.claim.conversation}/")
    with tenant_context(house.id):
        last = Conversation.objects.get(id=hands.claim.conversation).last_seq
    [dock] = found.xpath("//*[@id='thread']")
    assert (dock.get("data-seq"), dock.get("data-state")) == (str(last), "busy")
    assert text_of(found.xpath("//*[@class='open']")[0]) == "One two"


def test_a_long_conversation_shows_its_end_and_leads_to_its_beginning(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "TURNS_AT_ONCE", 2)
    conversation = talk(house.member, "message 1")
    for number in range(2, 6):
        talk(house.member, f"message {number}", conversation=conversation)
    shown, path = [], f"/t/{house.slug}/c/{conversation}/"
    while path:
        found = page(house.member.client, path)
        shown.append([text_of(bubble) for bubble in found.xpath("//article//*[@class='bubble']")])
        path = next(iter(found.xpath("//*[@class='earlier']/@hx-get")), "")
    assert shown == [["message 4", "message 5"], ["message 2", "message 3"], ["message 1"]]


def test_the_list_is_searched_by_title_and_message(house: House) -> None:
    talk(house.member, "Of whales")
    talk(house.member, "Of ships")
    talk(house.owner, "Of secrets")
    path = f"/t/{house.slug}/conversations"
    assert text_of(page(house.member.client, path)) == "TodayOf shipsOf whales"
    assert text_of(page(house.member.client, f"{path}?q=WHALE")) == "TodayOf whales"
    assert "Nothing found" in text_of(page(house.member.client, f"{path}?q=secrets"))
    talk(house.member, "A line\nGrüße an alle")
    assert text_of(page(house.member.client, f"{path}?q=grüße")) == "TodayA line"
    assert "q is a text" in text_of(page(house.member.client, f"{path}?q=%00", status=400))


def test_titles_of_others_are_text(house: House) -> None:
    conversation = talk(house.member, "<img src=x onerror=alert(1)>\u202e")
    answer = house.member.client.get(f"/t/{house.slug}/c/{conversation}/").content.decode()
    assert "<img" not in answer and "\u202e" not in answer


def test_days_are_named_the_more_roughly_the_longer_ago() -> None:
    today = timezone.localdate().replace(year=2026, month=5, day=20)
    ago = {days: label_of(today - timedelta(days=days), today) for days in (0, 1, 5, 20, 60)}
    assert ago == {0: "Today", 1: "Yesterday", 5: "Last 7 days", 20: "Last 30 days", 60: "March 2026"}


def test_a_viewer_reads(house: House) -> None:
    found = page(house.viewer.client, f"/t/{house.slug}/")
    assert not found.xpath("//textarea") and "Your role" in text_of(found)


def test_pages_need_no_inline_script_or_style(house: House) -> None:
    conversation = talk(house.member, "x", "```python\nx = 1\n```\n\na | b\n-- | --:\n1 | 2\n")
    for path in (f"/t/{house.slug}/", f"/t/{house.slug}/c/{conversation}/", f"/t/{house.slug}/credentials/"):
        answer = house.member.client.get(path)
        assert "'unsafe" not in answer.headers["content-security-policy"]
        found: Any = lxml_html.fromstring(answer.content)
        assert not found.xpath("//style | //script[not(@src)] | //*[@style]")
        assert not [a for e in found.iter() for a in e.attrib if a.startswith("on")]
        assert not [s for s in found.xpath("//@src | //link/@href") if not s.startswith("/")]


# Credentials ------------------------------------------------------------------------------------------------


def test_the_offline_model_is_called_what_it_is(house: House) -> None:
    sentence = "Answers come from the offline model, a script, not Claude."
    assert sentence not in text_of(page(house.member.client, f"/t/{house.slug}/"))
    offline = {"kind": "endpoint", "base_url": "https://93.184.215.14", "name": "Offline model (scripted)"}
    credential(house.owner, **offline)
    assert sentence in text_of(page(house.member.client, f"/t/{house.slug}/"))
    form = {"kind": "api_key", "name": "Real", "secret": "sk-real-1234", "default": "on"}
    assert house.member.client.post(f"/t/{house.slug}/credentials/", form).status_code == 302
    assert sentence not in text_of(page(house.member.client, f"/t/{house.slug}/"))


def test_a_secret_is_entered_and_never_shown(house: House) -> None:
    form = {"kind": "api_key", "name": "Team", "secret": "sk-very-secret-9876", "owner": "tenant"}
    assert house.owner.client.post(f"/t/{house.slug}/credentials/", form).status_code == 302
    found = page(house.owner.client, f"/t/{house.slug}/credentials/")
    assert "9876" in text_of(found) and "Team" in text_of(found)
    assert b"very-secret" not in lxml_html.tostring(found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"secret": ""}, "This field is required"),
        ({"secret": "two words"}, "a space"),
        ({"kind": "endpoint"}, "base_url"),
        ({"kind": "endpoint", "base_url": "https://127.0.0.1"}, "private network"),
        ({"kind": "magic"}, "valid choice"),
    ],
)
def test_a_wrong_credential_says_what_is_wrong(house: House, change: dict[str, str], said: str) -> None:
    form = {"kind": "api_key", "name": "Typed name", "secret": "sk-1", "owner": "tenant"} | change
    answer = house.owner.client.post(f"/t/{house.slug}/credentials/", form)
    found = lxml_html.fromstring(answer.content)
    assert answer.status_code == 400 and said in text_of(found)
    assert found.xpath("//input[@name='name']/@value") == ["Typed name"]
    assert not found.xpath("//input[@name='secret']/@value")


def test_nothing_of_the_database_is_held_while_a_servers_name_is_looked_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[tuple[bool, bool]] = []

    def resolve(host: str, port: int, **more: Any) -> list[Any]:
        held.append((connection.in_atomic_block, connection.connection is not None))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", port))]

    client, path = house.owner.client, f"/t/{house.slug}/credentials/"
    form = {"kind": "endpoint", "name": "Slow", "secret": "sk-1", "owner": "tenant", "default": "on"}
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", resolve)
        assert client.post(path, form | {"base_url": "https://models.example"}).status_code == 302
    assert held == [(False, False)]
    with tenant_context(house.id):
        kept = Credential.objects.get(name="Slow")
        assert (kept.base_url, kept.is_default) == ("https://models.example", True)


def test_a_refusal_by_a_view_that_names_its_tenant_itself_is_noted_too(house: House) -> None:
    path = f"/t/{house.slug}/credentials/"
    assert house.viewer.client.post(path, {"name": "x"}).status_code == 403
    with tenant_context(house.id):
        noted = AuditEvent.objects.get(act=Act.ACCESS_REFUSED)
    assert (noted.actor_id, noted.details["status"]) == (house.viewer.membership.id, 403)


def test_deleting_asks_for_the_name(house: House) -> None:
    mine = credential(house.member)
    path = f"/t/{house.slug}/credentials/{mine.id}/"
    answer = house.member.client.post(path, {"act": "delete", "name": "Yours"})
    assert answer.status_code == 400 and "Nothing was deleted" in answer.content.decode()
    assert house.member.client.post(path, {"act": "delete", "name": "Mine"}).status_code == 302
    assert house.member.client.post(path, {"act": "delete", "name": "Mine"}).status_code == 404


def test_what_is_the_tenants_is_changed_by_admins_only(house: House) -> None:
    shared = credential(house.owner)
    path = f"/t/{house.slug}/credentials/{shared.id}/"
    assert house.member.client.post(path, {"act": "delete", "name": "Mine"}).status_code == 403
    assert house.viewer.client.post(f"/t/{house.slug}/credentials/", {"name": "x"}).status_code == 403
    assert house.admin.client.post(path, {"act": "default"}).status_code == 302
    assert "Default" in text_of(page(house.admin.client, f"/t/{house.slug}/credentials/"))


# Errors -----------------------------------------------------------------------------------------------------


def test_an_error_says_what_to_do_and_has_an_id_to_quote(house: House) -> None:
    answer = house.member.client.get(f"/t/{house.slug}/c/{uuid4()}/")
    said = text_of(lxml_html.fromstring(answer.content))
    assert answer.status_code == 404
    assert "There is no such conversation." in said and answer.headers["request-id"] in said


def test_a_form_from_elsewhere_is_refused(house: House) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(house.member.user, backend="allauth.account.auth_backends.AuthenticationBackend")
    assert client.post(f"/t/{house.slug}/credentials/", {"name": "x"}).status_code == 403
