"""The pages' paths."""

from django.urls import path

from conversations import api_keys, audit_page, member_pages, pages, tenant_pages, usage_pages

urlpatterns = [
    path("", pages.home, name="home"),
    path("t/<slug:slug>/", pages.new_chat, name="new_chat"),
    path("t/<slug:slug>/conversations", pages.conversations, name="conversations"),
    path("t/<slug:slug>/c/<uuid:conversation_id>/", pages.conversation, name="conversation"),
    path("t/<slug:slug>/c/<uuid:conversation_id>/share", pages.share, name="share"),
    path(
        "t/<slug:slug>/c/<uuid:conversation_id>/before/<int:number>",
        pages.earlier_turns,
        name="earlier_turns",
    ),
    path("invitation/<str:token>/", member_pages.invitation, name="invitation"),
    path("t/<slug:slug>/settings/", tenant_pages.tenant_settings, name="tenant_settings"),
    path("t/<slug:slug>/settings/delete", tenant_pages.delete_tenant, name="delete_tenant"),
    path("t/<slug:slug>/usage/", usage_pages.usage, name="usage"),
    path("t/<slug:slug>/audit/", audit_page.audit, name="audit"),
    path("t/<slug:slug>/members/", member_pages.members, name="members"),
    path("t/<slug:slug>/members/<uuid:member_id>/", member_pages.member, name="member"),
    path(
        "t/<slug:slug>/invitations/<uuid:invitation_id>/",
        member_pages.revoke_invitation,
        name="revoke_invitation",
    ),
    path("t/<slug:slug>/credentials/", pages.credentials, name="credentials"),
    path("t/<slug:slug>/credentials/<uuid:credential_id>/", pages.credential, name="credential"),
    path("t/<slug:slug>/api-keys/", api_keys.api_keys, name="api_keys"),
    path("t/<slug:slug>/api-keys/<uuid:key_id>/", api_keys.api_key, name="api_key"),
]
