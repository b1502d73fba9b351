"""Forms of the pages. What they let through is checked once more where it is stored."""

from django import forms
from django.conf import settings
from django.utils.translation import gettext_lazy as _

from tenants.access import Caller
from tenants.credentials import OAUTH_TERMS
from tenants.drafts import NAME_LENGTH, SECRET_LENGTH, CredentialDraft
from tenants.errors import InvalidRequest
from tenants.models import Credential
from tenants.roles import Action, CredentialKind

OWNERS = [("tenant", _("Everybody in this tenant")), ("member", _("Only me"))]


class CredentialForm(forms.Form):
    """Adding a credential; its owner is asked only of those who may choose."""

    kind = forms.ChoiceField(label=_("What it is"))
    name = forms.CharField(
        label=_("Name"), max_length=NAME_LENGTH, help_text=_("As you and others will find it in the list.")
    )
    base_url = forms.CharField(
        label=_("Address of the server"),
        required=False,
        help_text=_(
            "For an own server only: where its Messages API begins, such as https://models.example.org."
        ),
        widget=forms.URLInput(attrs={"placeholder": "https://"}),
    )
    secret = forms.CharField(
        label=_("Key or token"),
        max_length=SECRET_LENGTH,
        widget=forms.PasswordInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    owner = forms.ChoiceField(label=_("Who uses it"), choices=OWNERS)
    default = forms.BooleanField(label=_("Use it from the next message on"), required=False, initial=True)

    def __init__(self, caller: Caller, *args: object, **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]  # passed on as they are
        self.caller = caller
        allowed = settings.ALLOW_OAUTH_TOKENS
        kinds = [kind for kind in CredentialKind.choices if allowed or kind[0] != CredentialKind.OAUTH_TOKEN]
        kind, secret = self.fields["kind"], self.fields["secret"]
        assert isinstance(kind, forms.ChoiceField)
        kind.choices = kinds
        if allowed:
            secret.help_text = OAUTH_TERMS
        if not caller.may(Action.MANAGE_CREDENTIALS):
            del self.fields["owner"]

    def save(self) -> Credential | None:
        """The new credential, or None and an error that says what is wrong. Needs a valid form."""
        given = self.cleaned_data
        try:
            draft = CredentialDraft.checked(
                name=given["name"], kind=given["kind"], secret=given["secret"], base_url=given["base_url"]
            )
        except InvalidRequest as error:
            self.add_error(None, error.message)
            return None
        return Credential.objects.create_for(
            self.caller, draft, default=given["default"], owner=given.get("owner", "member")
        )
